"""A run's folder belongs to one process at a time: a lock that ends with its process, however that ends."""

import errno
import fcntl
import os
import socket
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from nptrain.errors import InputError
from nptrain.files import writing

NAME = "lock"
HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(folder, say):
    """Hold the lock of a run's folder (made if it is missing) within the block. Afterwards the lock file is gone, and
    so is the folder if nothing is in it. Raises InputError if another process holds it, with EAGAIN as its
    errno, or if it cannot be written.

    It is a POSIX record lock, which network file systems pass on to all hosts. On one that has no locks, say(line) is
    called, and the block runs without.
    """
    path = Path(folder) / NAME
    descriptor = _take(path, say)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        with suppress(OSError):
            path.parent.rmdir()  # only if it is empty


def _take(path, say):
    """Lock the file, and write into it who has it. Returns its descriptor."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            holder = os.pread(descriptor, 1000, 0).decode(errors="backslashreplace").strip()
            os.close(descriptor)
            held = InputError(f"--run-dir: {path.parent} is in use by {holder or 'another process'}; wait for its end, "
                              "or choose another folder")  # fmt: skip
            held.errno = errno.EAGAIN
            raise held from None
        say(f"{path}: this file system has no locks ({error.strerror}): nothing keeps a second run out of the folder")
    if not path.exists() or path.stat().st_ino != os.fstat(descriptor).st_ino:  # its holder has just ended
        os.close(descriptor)
        return _take(path, say)
    holder = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    with writing(path):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{holder}\n".encode(), 0)
    return descriptor
