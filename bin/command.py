"""What the commands share: finding the project and its environment, and how a command ends.

Imported first. Runs the command again under the project's own .venv unless the interpreter belongs to it or to
another of the project's environments (.venv-mpich, say), and puts the project on the path, so that the commands
work from any folder and under any launcher. NPTRAIN_PYTHON set: the interpreter stays the one that was called.
"""

import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
OURS = {path.resolve() for path in PROJECT.glob(".venv*")}

if (VENV / "bin" / "python").exists() and Path(sys.prefix).resolve() not in OURS and "NPTRAIN_PYTHON" not in os.environ:
    os.environ["NPTRAIN_PYTHON"] = str(VENV)  # once only, should the environment be broken
    os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
if find_spec("numba") is None:
    print(f"{Path(sys.argv[0]).name}: no environment in {VENV}: run `make setup` first", file=sys.stderr)
    sys.exit(2)

sys.path.insert(0, str(PROJECT))


def parse(parser):
    """The command line, parsed; of several ranks, which all see the same one, only the first shows help or errors."""
    rank = next((os.environ[name] for name in ("PMIX_RANK", "PMI_RANK") if name in os.environ), "0")
    if rank == "0":
        return _parsed(parser)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        return _parsed(parser)


def _parsed(parser):
    args = parser.parse_args()
    for name, value in vars(args).items():
        most = 2**63 - 1 if name == "seed" else 2**31 - 1
        if isinstance(value, int) and value > most:
            parser.error(f"argument --{name.replace('_', '-')}: found {value}, expected at most {most}")
    return args


def run(main):
    """Call main() and return its exit status: 0, or 2 for a user's mistake (one line), 1 for a failure (one line
    if it is foreseen, else the traceback), 130 when interrupted. A failure on one rank ends all ranks.
    """
    status, all_know = 0, False
    try:
        main()
    except KeyboardInterrupt:
        _say("interrupted")
        status = 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except SystemExit as end:  # usage errors, and the ranks that leave a common error to the first
        status, all_know = end.code or 0, True
        if isinstance(status, str):
            _say(status)
            status = 1
    except MemoryError as error:
        _say(f"out of memory: {error}".removesuffix(": "))
        status = 1
    except Exception as error:
        status, all_know = getattr(error, "exit_status", None), getattr(error, "all_know", False)
        if status is None:
            traceback.print_exc()
            status = 1
        else:
            _say(str(error))
    sys.stdout.flush()
    sys.stderr.flush()
    world = sys.modules.get("mpi.world")
    if status and world:
        (world.leave if all_know else world.end)(status)
    return status


def _say(line):
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
