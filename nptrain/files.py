"""Files: written atomically, read only if they are regular files, and tried again where that may help."""

import errno
import os
import socket
import stat
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from nptrain.errors import InputError, reason

MAKE_ROOM = ": make room, or write to another disk"
OTHER_FOLDER = ": write to another folder"
# what a network file system gives when its server is away for a moment
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
PAUSES = (0.1, 0.4, 1.5, 5.0)  # s before one tries again


def retried(action, place):
    """action(). After an error of TRANSIENT it is tried again, after PAUSES, and a line on stderr says so, with the
    `place`. Raises what the last try has raised: OSError, or the InputError that `writing` makes of it.

    An action must write a file from its beginning, or it must know that nothing was written: after an fsync that has
    failed, the system does not have the data any more.
    """
    for turn, pause in enumerate(PAUSES):
        try:
            return action()
        except (OSError, InputError) as error:
            if error.errno not in TRANSIENT:
                raise
            if turn == 0:
                print(f"{place} on {socket.gethostname()}: {os.strerror(error.errno)}: trying again for "
                      f"{sum(PAUSES):.0f} s", file=sys.stderr, flush=True)  # fmt: skip
        time.sleep(pause)
    return action()


def read_at(file, size, at):
    """`size` bytes of an open file from `at` on, fewer at its end, as `retried`. Raises OSError."""
    return retried(lambda: os.pread(file.fileno(), size, at), file.name)


def check_regular(path):
    """Raise InputError unless `path` is a regular file: a device may have no end, and a pipe may block. Raises OSError
    if it does not exist.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{path}: cannot be read: not a regular file")


def read_small(path, most=1 << 20):
    """The bytes of a regular file of at most `most` bytes. Raises InputError for another one; OSError."""

    def read():
        check_regular(path)
        with open(path, "rb") as file:
            return file.read(most + 1)

    content = retried(read, path)
    if len(content) > most:
        raise InputError(f"{path}: found more than {most} bytes")
    return content


KINDS = {  # the first bytes of files that are given where others are expected, and what they are
    b"\x89HDF": "an HDF5 file, which Caffe does not write with snapshot_format: BINARYPROTO",
    b"version https://git-lfs": "a pointer of Git LFS, in place of the file: `git lfs pull` gets it",
    b"<!DOCTYPE": "a web page: the download has failed",
    b"<!doctype": "a web page: the download has failed",
    b"<html": "a web page: the download has failed",
    b"PK\x03\x04": "a zip archive, such as a PyTorch file",
    b"\x80\x02": "a pickle, such as an old PyTorch file",
    b"\x1f\x8b": "a gzip archive",
    b"\xfd7zXZ": "an xz archive",
    b"%PDF": "a PDF",
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG": "a PNG",
}


def is_safetensors(head):
    """Whether a file that begins with the bytes `head` is of that format: a JSON header after its length."""
    return head[4:9] == b"\0\0\0\0{"


def other_kind(path):
    """What the file `path` is if its first bytes are those of another well-known kind of file; else None."""
    with open(path, "rb") as file:
        head = file.read(64)
    if is_safetensors(head):
        return "a safetensors file, which bin/convert makes a .caffemodel"
    head = head.lstrip()
    return next((kind for start, kind in KINDS.items() if head.startswith(start)), None)


@contextmanager
def writing(path):
    """An OSError in the block becomes an InputError: what cannot be written, why, and what to do. A BrokenPipeError
    remains: the reader has ended.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        advice = {errno.EACCES: OTHER_FOLDER, errno.EPERM: OTHER_FOLDER, errno.EROFS: OTHER_FOLDER,
                  errno.ENOSPC: MAKE_ROOM, errno.EDQUOT: MAKE_ROOM, errno.EFBIG: MAKE_ROOM}  # fmt: skip
        found = InputError(f"{path}: cannot be written: {reason(error)}{advice.get(error.errno, '')}")
        found.errno = error.errno
        raise found from None


def write_small(path, content):
    """Write bytes into a file, replaced whole or not at all, on the disk when this returns. Raises InputError."""

    def write():
        with atomic_write(path) as file:
            file.write(content)

    with writing(path):
        retried(write, path)


@contextmanager
def atomic_write(path, mode="wb"):
    """Open a temporary file beside `path`; when the block ends, make it `path`, safely on disk.

    `mode` is "wb" or "w" (UTF-8). After an exception, in the block or in the writing, the temporary file
    is removed and `path` is unchanged. Raises OSError if the folder cannot be written.
    """
    path = Path(path)
    temporary = temporary_of(path)
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


def temporary_of(path):
    """Where this process writes what becomes the file `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def clear_temporary(folder, name="*"):
    """Remove what `atomic_write` has left in a folder when its process died, of files whose names match `name`. No
    process may be writing there.
    """
    for path in Path(folder).glob(f".{name}.*.tmp"):
        if path.name.split(".")[-2].isdecimal():
            path.unlink(missing_ok=True)


def sync_folder(folder):
    """Make new names in `folder` durable, by fsync."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
