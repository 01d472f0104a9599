"""A time limit for calls that nothing else ends."""

import os
import select
import signal
import socket
import time
from contextlib import contextmanager, suppress

RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")  # where launchers say which rank a process is
FLUSH = 0.5  # s before the end: the launcher may lose output that it has not passed on yet


@contextmanager
def limited(seconds):
    """End this process, with a line, if the block takes longer: a rank that dies before MPI knows of it is waited for
    without end, in C code, while no thread of Python runs. So it is a process of its own that waits.
    """
    reading, writing = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        try:
            os.close(writing)
            if not select.select([reading], [], [], seconds)[0]:  # else the parent has closed it, or has died
                rank = next((os.environ[name] for name in RANK if name in os.environ), "?")
                line = f"MPI has not started within {seconds:.0f} s: a rank has died before it, or cannot be reached"
                os.write(2, f"rank {rank} on {socket.gethostname()}: {line}\n".encode())
                time.sleep(FLUSH)
                os.kill(parent, signal.SIGKILL)
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        with suppress(ChildProcessError):  # where SIGCHLD is ignored
            os.waitpid(child, 0)
