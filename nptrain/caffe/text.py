"""Caffe's text files: protobuf messages, whose mistakes have a line and a column, and numbers as they were written."""

import codecs
import re
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from nptrain.errors import InputError, reason
from nptrain.files import check_regular

MAX_TEXT = 1 << 20  # bytes; the longest nets that are written by hand have a fifth of it
MAX_LINE = 1 << 14  # characters; the time of protobuf's parser grows with the square of a line's length
CODE = re.compile(r"""(?:[^#"']|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')*""")  # the part of a line before its comment


def text_of(path, kind="text"):
    """The content of a text file of at most MAX_TEXT bytes, in lines of at most MAX_LINE characters. Raises InputError,
    which names the expected `kind` of text.
    """
    path = Path(path)
    try:
        check_regular(path)
        if path.stat().st_size > MAX_TEXT:
            raise InputError(f"{path}: found {path.stat().st_size} bytes of text, expected at most {MAX_TEXT}")
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except UnicodeError as error:
        raise InputError(f"{path}: not a text in UTF-8: {error}, expected {kind}") from None
    longest = max(map(len, text.split("\n")))
    if longest > MAX_LINE:
        raise InputError(f"{path}: found a line of {longest} characters, expected at most {MAX_LINE}")
    return text


def _decoded(content):
    """The text of a file's bytes: UTF-8, with or without a byte order mark. What is not UTF-8 is replaced in comments,
    which have had any encoding; elsewhere it raises UnicodeError, as do other byte order marks.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnicodeError("found UTF-16")
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        return content.decode()
    except UnicodeDecodeError:
        lines = content.decode(errors="surrogateescape").split("\n")
    for number, line in enumerate(lines, 1):
        code = CODE.match(line)[0]
        if _escaped(code) or (_escaped(line) and line[len(code)] != "#"):
            raise UnicodeError(f"line {number}, not in a comment")
    return content.decode(errors="replace")


def _escaped(text):
    """Whether `text` has bytes that surrogateescape could not decode."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def parse(text, message, path, allow_unknown=False):
    """Fill `message` from the text of the file `path`, and return it. Raises InputError: FILE:LINE:COLUMN, and
    what is wrong there.
    """
    try:
        return text_format.Parse(text, message, allow_unknown_field=allow_unknown)
    except text_format.ParseError as error:
        place = f"{error.GetLine()}:{error.GetColumn()}" if error.GetLine() else ""
        what = " ".join(str(error).removeprefix(f"{place} : ").split())
        raise InputError(f"{path}:{place}: {what}" if place else f"{path}: {what}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: found too many nested messages") from None


def decimal(value, name):
    """A float32 as the number that was written: the shortest decimal that rounds to it. 0.00005 is stored as
    4.999999873689376e-05, but the schedule's tables are those of 0.00005. Raises InputError unless it is finite.
    """
    if not np.isfinite(value):
        raise InputError(f"{name}: found {value}, expected a number that a float32 can hold")
    return float(str(np.float32(value)))


def single(value, name):
    """`value`, for a float32 field. Raises InputError if the field would round it."""
    with np.errstate(over="ignore"):
        kept = decimal(np.float32(value), name)
    if kept != value:
        raise InputError(f"{name}: found {value}, which Caffe's file would round to {kept}")
    return value
