"""Writing a file so that a reader sees all of it or nothing; and what is no file to read."""

import os
import stat
from contextlib import contextmanager
from pathlib import Path

from nptrain.errors import InputError


def check_regular(path):
    """Raises InputError for another thing than a regular file: a device may never end, a pipe never begin. OSError
    where there is nothing.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{path}: cannot be read: no regular file")


@contextmanager
def atomic_write(path, mode="wb"):
    """Open a temporary file beside `path`; when the block ends, make it `path`, safely on disk.

    `mode` is "wb" or "w" (UTF-8). After an exception, in the block or in the writing, the temporary file
    is gone and `path` is as it was. Raises OSError where the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder):
    """Make the names in `folder` as durable as the files behind them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
