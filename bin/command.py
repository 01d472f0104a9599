"""What the commands share: finding the project and its environment, and how a command ends.

Imported first. Runs the command again under the project's own .venv if the interpreter is another one, and
puts the project on the path, so that the commands work from any folder and under any launcher.
"""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"

if (
    (VENV / "bin" / "python").exists()
    and Path(sys.prefix).resolve() != VENV.resolve()
    and "NPTRAIN_PYTHON" not in os.environ
):
    os.environ["NPTRAIN_PYTHON"] = str(VENV)  # once only, should the environment be broken
    os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])

sys.path.insert(0, str(PROJECT))


def run(main):
    """Call main() and return its exit status: 0, or 2 for a user's mistake (one line), 1 for a failure (one line
    if it is foreseen, else the traceback), 130 when interrupted. A failure on one rank ends all ranks.
    """
    try:
        main()
        status = 0
    except KeyboardInterrupt:
        _say("interrupted")
        status = 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        status = getattr(error, "exit_status", None)
        if status is None:
            import traceback

            traceback.print_exc()
            status = 1
        else:
            _say(str(error))
    sys.stdout.flush()
    sys.stderr.flush()
    world = sys.modules.get("mpi.world")
    if status and world:
        world.end(status)
    return status


def _say(line):
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
