"""Caffe's text files: protobuf messages, read with the place of every mistake, and numbers as they were written."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from nptrain.errors import InputError


def read_text(path, message_type):
    """Parse a text file as one protobuf message. Raises InputError: FILE:LINE:COLUMN, and what is wrong there."""
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), message_type())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        kind = message_type.DESCRIPTOR.name
        raise InputError(f"{path}: no text: expected a {kind} in protobuf's text form") from None
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        reason = " ".join(str(error).removeprefix(f"{line}:{column} : ").split())
        raise InputError(f"{path}:{line}:{column}: {reason}") from None


def decimal(value, name):
    """A float32 as the number that was written: the shortest decimal that rounds to it. 0.00005 is stored as
    4.999999873689376e-05, but the schedule's tables are those of 0.00005. Raises InputError unless it is finite.
    """
    if not np.isfinite(value):
        raise InputError(f"{name}: found {value}, expected a number that a float32 can hold")
    return float(str(np.float32(value)))


def single(value, name):
    """`value`, for a float32 field that gives it back. Raises InputError if it would be rounded."""
    with np.errstate(over="ignore"):
        kept = decimal(np.float32(value), name)
    if kept != value:
        raise InputError(f"{name}: found {value}, which Caffe's file would round to {kept}")
    return value


@contextmanager
def within(place):
    """An InputError from within begins with `place`: a file, a layer."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
