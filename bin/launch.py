"""How every command starts and ends: environment, ranks, one exit status.

bin/NAME calls `launch(NAME)`, which restarts the command with the interpreter of the project's .venv, unless it runs in
one of the project's environments already (.venv-mpich is another). So the commands work from any folder and under any
launcher. If NPTRAIN_PYTHON is set, the command is not restarted.
"""

import errno
import importlib
import os
import resource
import signal
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
TRY_AGAIN = 75  # as in nptrain/run/stop.py, which cannot be imported yet
LEAST_BYTES = 700e6  # of addresses: NumPy, Numba, LLVM and MPI, without a network
ON_RANKS = ("train", "evaluate", "bench")  # commands that run on several ranks; the others are one process


def launch(name):
    """Run the command `name` with the arguments of this process, and end the process."""
    enter_environment(name)
    if name in ON_RANKS:
        expect_address_space(name)
    sys.path[0] = str(PROJECT)  # instead of bin/
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's own threads: the kernels have theirs
    os.environ["MPLBACKEND"] = "agg"  # pictures are files; that of a notebook is not here
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may have what the terminal's encoding has not

    def main(argv, world):
        from nptrain.data.datum import silence_pillow

        silence_pillow()
        importlib.import_module(f"bin.commands.{name}").main(argv, world)

    if name == "train":  # a Stop takes these over when there is something to save
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: sys.exit(TRY_AGAIN))
    status = run(name, main)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # all is done: a signal that comes now is late
    sys.exit(status)


def enter_environment(name):
    """Restart the process in the project's environment unless it runs there; end it if there is no environment."""
    ours = {path.resolve() for path in PROJECT.glob(".venv*")}
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() not in ours and "NPTRAIN_PYTHON" not in os.environ:
        os.environ["NPTRAIN_PYTHON"] = str(VENV)  # only once, even if the environment is broken
        os.execv(python, [str(python), *sys.argv])
    if find_spec("numba") is None:
        print(f"{name}: no environment in {VENV}: run `make setup` first", file=sys.stderr)
        sys.exit(2)


def expect_address_space(name):
    """End the process where `ulimit -v` allows too little: LLVM would abort, and OpenBLAS try again for ever."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_BYTES:
        print(f"{name}: ulimit -v: found {limit / 1e6:.0f} MB, expected at least {LEAST_BYTES / 1e6:.0f}, or unlimited",
              file=sys.stderr)  # fmt: skip
        sys.exit(2)


def run(name, main, argv=None, world=None):
    """Call main(argv, world) and return its exit status: 0; 2 for a user's mistake (one line is printed); 1 for a
    failure (one line; before it the traceback, if it is not an expected one); 130 when interrupted; 75 if a training
    shall be started again. A failure on one rank ends all ranks, and its line names the rank and its host.

    argv   the command's arguments (None: those of this process)
    world  `mpi.world.World`, or `nptrain.world.Solo` for one process (None: the former if `name` is one of ON_RANKS and
           an MPI launcher started this process, else the latter)
    """
    from mpi.world import connect
    from nptrain.world import Solo

    status, on_all_ranks, line, who = 0, False, None, ""
    try:
        if world is None:
            world = (connect() if name in ON_RANKS else None) or Solo()
        main(sys.argv[1:] if argv is None else argv, world)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        line, status, on_all_ranks = ending(error)
        if world is not None and isinstance(error, world.failures):
            world.recover()  # so that those that are left end together
            on_all_ranks = True
        several = world is not None and world.size > 1
        who = f"{name}: rank {world.rank} on {world.host}: " if several else f"{name}: "
        if line and not (on_all_ranks and several and world.rank):  # else rank 0 prints it
            print(f"{name}: {line}" if on_all_ranks else who + line, file=sys.stderr)
    status = flush(name, status)
    if status and world is not None:
        if on_all_ranks:
            world.end_together(status, line and who + line)
        else:
            world.end_all(status)
    return status


def flush(name, status):
    """Flush the output. Returns `status`, or 1 if it was 0 and the output cannot be written; a line says why."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed again at the exit
        if not status and not isinstance(error, BrokenPipeError):  # the reader has ended
            print(f"{name}: the output cannot be written: {error.strerror}", file=sys.stderr)
        return status or 1
    return status


def ending(error):
    """(line for the user or None, exit status, whether all ranks have this error) of the exception that ended a
    command.
    """
    from mpi.agree import AgreedError
    from nptrain.errors import RanksLost, TrainingError, printable, shortage
    from nptrain.run.stop import Stopped

    match error:
        case KeyboardInterrupt():
            return "interrupted", 130, False
        case BrokenPipeError():  # the reader of the output has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None, 1, False
        case SystemExit(code=str(text)):
            return text, 1, True
        case SystemExit():  # of argparse, after --help: all ranks have the same command line
            return None, error.code or 0, True
        case AgreedError():
            return error.line, error.exit_status, True
        case TrainingError() | RanksLost():  # of a loss or gradient that is the sum over all ranks; of their agreement
            return str(error), error.exit_status, True
        case Stopped():
            return error.line, error.exit_status, False
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"{error.filename or 'the output'} cannot be written: {error.strerror}", 1, False
    if lacks := shortage(error):
        return f"out of memory: {lacks}", 1, False
    status = getattr(error, "exit_status", None)
    if status is None:
        traceback.print_exception(error)
        return printable(f"a fault of the program: {type(error).__name__}: {error}", 1000), 1, False
    return str(error), status, False
