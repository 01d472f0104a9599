"""How a training holds its folder, and ends before its end: the time that it has, how it can go on."""

import argparse
import os
import re
import shlex
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bin.common.prepare import tell
from mpi.agree import AgreedError, raise_together
from nptrain.errors import InputError, TrainingError
from nptrain.files import TRANSIENT
from nptrain.run.end import write_end
from nptrain.run.lock import locked
from nptrain.run.metrics import GoneError

# s in which the lock of a process that has died must become free: an NFS server keeps it until its lease is over
TAKE_OVER = 120.0
SAY = 1.0  # s of waiting, after which a line says for whom
# in the environment: bin/supervise has started this process; Open MPI passes on only such names to other hosts
SUPERVISED = "OMPI_MCA_nptrain_supervised"


def seconds(text):
    """The argument of --time-limit: seconds, or H:MM:SS, or M:SS."""
    if not re.fullmatch(r"\d{1,9}|(\d{1,5}:)?[0-5]?\d:[0-5]\d", text):
        raise argparse.ArgumentTypeError(f"found {text}, expected seconds or H:MM:SS")
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total


@contextmanager
def holding(folder, resume, world):
    """Rank 0 holds the lock of a RunFolder within the block. A new run that ends before its first iteration leaves
    nothing there. Yields a function, which a rank that becomes rank 0 calls to hold it, with the seconds that it may
    wait at most; it returns whether this one has not held it before. Raises AgreedError if another process holds it.
    All ranks call it.
    """
    with ExitStack() as stack:
        held = []

        def hold(limit_s):
            start, new, pause, said, wait_s = time.monotonic(), not held, 0.01, False, min(limit_s, TAKE_OVER)
            while not held:
                try:
                    held.append(stack.enter_context(locked(folder.path, tell)))
                except InputError as error:  # the process that held it may just be dying, or its host be dead
                    passed = time.monotonic() - start
                    if error.errno not in TRANSIENT or passed >= wait_s:
                        raise
                    if passed > SAY and not said:
                        tell(f"waits for {wait_s:.0f} s at most: {str(error).partition(';')[0]}")
                        said = True
                    time.sleep(pause)
                    pause = min(2 * pause, 1.0)
            return new

        with raise_together(world, InputError):
            if world.rank == 0:
                hold(TAKE_OVER if SUPERVISED in os.environ else 0)
                if not resume:
                    stack.push(lambda _, error, __: None if isinstance(error, GoneError) else folder.discard_unused())
        try:
            yield hold
        except TrainingError as error:
            if world.rank == 0:
                write_end(folder.path, error=str(error))
            raise


def finish(trainer, folder, last):
    """Say, and write into a RunFolder, that the run is done, with its last Checkpoint. Raises InputError if the folder
    or the metrics are gone. All ranks call it.
    """
    trainer.log.expect_there()
    if not trainer.stopped:
        saved = trainer.world.bcast(last.manifest.exists())  # another host may see it later
        if saved:  # before it counts as done: nothing starts again to remove them then
            trainer.snapshots.remove()
            trainer.world.barrier()
        if trainer.world.rank == 0:
            write_end(folder.path, last if saved else None)
        weights = f"weights in {last.model}" if saved else "no snapshot after training"
        trainer.log.say(f"done: {weights}, metrics in {folder.metrics}")


def end(trainer, last, folder, stop):
    """Close the log of a run that has ended in a RunFolder, with its last Checkpoint. Raises AgreedError if a rank's
    Stop wanted the end. All ranks call it.
    """
    trainer.log.close()
    if trainer.stopped:
        end_early(stop, last, folder.path, trainer.world)


def end_early(stop, checkpoint, run_dir, world):
    """Raise AgreedError: the run has ended with this checkpoint because a rank's Stop wanted it. All ranks call it."""
    status, reason = max(cause for cause in world.allgather(stop.cause) if cause)
    line = f"{reason}: ended at phase {checkpoint.phase}, iteration {checkpoint.iteration}; go on with: "
    raise AgreedError(None if world.rank else line + resume_command(run_dir, world.size), status)


def resume_command(run_dir, ranks):
    """The command that goes on with the run in a folder."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "train" else "bin/train"
    return shlex.join([*(("mpirun", "-n", str(ranks)) if ranks > 1 else ()), program, "--resume", str(run_dir)])
