"""Errors that end a command with one line: a user's mistake (exit status 2), a run that fails (1)."""

import errno
from contextlib import contextmanager


class InputError(Exception):
    """A user's mistake, in one line: which file, record, field or flag, what was found, what was expected.

    The message may quote any text: it is made printable, and shortened if it is very long. `errno` is that of the
    OSError behind it, if there is one.
    """

    exit_status, errno = 2, None

    def __init__(self, message):
        super().__init__(printable(message, 1000))


class ReadError(InputError):
    """Data that could not be read, or were cut short: a fault of a disk or a network, which says nothing of the record.
    So no other record may take its place. A new start may help.
    """

    exit_status = 1


class TrainingError(Exception):
    """A run that cannot continue, as its loss is not finite: one line, which names the last checkpoint."""

    exit_status = 1


class RanksLost(Exception):
    """Ranks have died, and those that are left cannot go on, or must not: one line, the same on all of them."""

    exit_status = 1


@contextmanager
def within(place):
    """An InputError that the block raises begins with `place`: a file, a record, a layer."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def shortage(error):
    """What an exception says of memory that is not there, in words; None if it is about something else."""
    if isinstance(error, MemoryError):
        return str(error).rstrip(".") or "the system gives no more"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return str(reason(error))
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "can't start new thread: no room for its stack, or too many processes (ulimit -v, -u)"
    return None


def reason(error):
    """Why a file could not be read or written, from the exception."""
    return getattr(error, "strerror", None) or error


def counted(number, noun):
    """1 file, 2 files."""
    return f"{number} {noun}{'s' * (number != 1)}"


def printable(text, limit):
    """`text` as one line of at most about `limit` characters: what is not printable is escaped, and the middle of a
    longer text is left out.
    """
    text = _cut(text, limit)
    return text if text.isprintable() else _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), limit)


def _cut(text, limit):
    half = limit // 2 - 3
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
