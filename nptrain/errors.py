"""The two ways a run ends badly, as exit statuses: 2 for a user's mistake, 1 for a failure."""

from contextlib import contextmanager


class InputError(Exception):
    """A user's mistake, in one line: which file, record, field or flag, what was found, what was expected.

    What the message quotes may be anything: it is made printable, and cut if it is very long.
    """

    exit_status = 2

    def __init__(self, message):
        super().__init__(printable(message, 1000))


class TrainingError(Exception):
    """A run that cannot go on (a loss that is not finite): one line, naming the last good checkpoint."""

    exit_status = 1


@contextmanager
def within(place):
    """An InputError that the block raises begins with `place`: a file, a record, a layer."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def reason(error):
    """Why a file could not be read or written, by the exception that came of it."""
    return getattr(error, "strerror", None) or error


def printable(text, limit):
    """`text` in one line: what is not printable is escaped, and a middle beyond `limit` characters left out."""
    text = _cut(text, limit)
    return text if text.isprintable() else _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), limit)


def _cut(text, limit):
    half = limit // 2 - 3
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
