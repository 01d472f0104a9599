"""Protobuf's wire format, read from a file field by field; arrays are read directly into their memory.

The protobuf library parses a whole file, which takes several times its size: an empty message of two bytes takes a
hundred. Here a file takes the memory of its arrays, whatever it contains.
"""

import os
from contextlib import contextmanager

import numpy as np

from nptrain.errors import InputError, printable, reason
from nptrain.files import check_regular, other_kind, retried

VARINT, I64, LEN, I32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which Caffe has never used
MAX_BYTES = 2**31 - 1  # protobuf's own limit
MAX_FIELDS = 2**16  # of a file; a ResNet-152 has about ten thousand
MAX_NAME = 1000


class WireError(Exception):
    """The bytes are not a protobuf message, or not the expected one."""


@contextmanager
def open_message(path, kind):
    """The file `path` as one Message, of the type named `kind` in errors.

    Raises InputError if the file cannot be read or has more than MAX_BYTES, and for a WireError in the block.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise InputError(f"{path}: found {size} bytes, expected at most {MAX_BYTES}, protobuf's limit")
            yield Message(_Source(file), 0, size)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except WireError as error:
        other = other_kind(path)
        if other:
            raise InputError(f"{path}: found {other}; expected a {kind} message") from None
        raise InputError(f"{path}: not a {kind} message: damaged, cut short, or another kind ({error})") from None


class _Source:
    """An open file, and how many more fields may be read from it."""

    def __init__(self, file):
        self.file, self.fields = file, MAX_FIELDS

    def read(self, at, size):
        def read():
            self.file.seek(at)
            return self.file.read(size)

        content = retried(read, self.file.name)
        if len(content) < size:
            raise WireError(f"the file ends within the {size} bytes at {at}")
        return content


class Message:
    """The bytes `begin`..`end` of a file, to be read as a message, a string or numbers."""

    def __init__(self, source, begin, end):
        self._source, self.begin, self.end = source, begin, end

    def __len__(self):
        return self.end - self.begin

    def fields(self):
        """(number, wire type, value) of every field in order, where the value is an int for VARINT, a Message for
        LEN, and for I32 and I64 an array of uint32 or uint64: the field and those of the same number right after it.
        """
        return (field for _, _, *field in self._fields())

    def without(self, number, limit):
        """The bytes of the message without its fields of that number, which must be at most `limit` bytes."""
        places = [(begin, end) for begin, end, found, _, _ in self._fields() if found != number]
        size = sum(end - begin for begin, end in places)
        if size > limit:
            raise WireError(f"{size} bytes apart from field {number}")
        return b"".join(self._source.read(begin, end - begin) for begin, end in places)

    def _fields(self):
        """What `fields` yields, each after the places in the file where the field begins and ends."""
        at = self.begin
        while at < self.end:
            self._source.fields -= 1
            if self._source.fields < 0:
                raise WireError(f"more than {MAX_FIELDS} fields")
            start = at
            key, at = self._varint(at)
            number, wire = key >> 3, key & 7
            if not 0 < number < 2**29:
                raise WireError(f"field number {number} at byte {start}")
            if wire == VARINT:
                value, at = self._varint(at)
            elif wire == LEN:
                size, at = self._varint(at)
                if size > self.end - at:
                    raise WireError(f"field {number} claims {size} bytes at byte {at}, {self.end - at} are left")
                value, at = Message(self._source, at, at + size), at + size
            elif wire in (I32, I64):
                value, at = self._run(start, at, 4 if wire == I32 else 8)
            else:
                raise WireError(f"wire type {wire} at byte {start}")
            yield start, at, number, wire, value

    def bytes(self):
        return self._source.read(self.begin, len(self))

    def text(self):
        """The bytes as a string; what is not printable is escaped."""
        if len(self) > MAX_NAME:
            raise WireError(f"a name of {len(self)} bytes")
        return printable(self.bytes().decode(errors="backslashreplace"), MAX_NAME)

    def integers(self):
        """The int64 values of a packed field."""
        at = self.begin
        while at < self.end:
            value, at = self._varint(at)
            yield signed(value)

    def read_into(self, memory):
        """Fill the writable memoryview of bytes `memory`, as long as the message."""

        def read():
            self._source.file.seek(self.begin)
            return self._source.file.readinto(memory)

        if retried(read, self._source.file.name) < len(memory):
            raise WireError(f"the file ends within the {len(memory)} bytes at {self.begin}")

    def _varint(self, at):
        """(the number at byte `at`, the byte after it)."""
        number = 0
        for shift, byte in enumerate(self._source.read(at, min(10, self.end - at))):
            number |= (byte & 127) << 7 * shift
            if byte < 128:
                return number & (2**64 - 1), at + shift + 1
        raise WireError(f"no number ends at byte {at}")

    def _run(self, start, at, size):
        """(values, end) of the consecutive fields from `start` on that have the key in start..at."""
        key = np.frombuffer(self._source.read(start, at - start), np.uint8)
        row = np.dtype([("key", np.uint8, (len(key),)), ("value", f"<u{size}")])
        parts, rows, at = [], 64, start
        while True:
            left = min(rows, (self.end - at) // row.itemsize)
            chunk = np.frombuffer(self._source.read(at, left * row.itemsize), row)
            same = (chunk["key"] == key).all(axis=1)
            count = left if same.all() else int(same.argmin())
            parts.append(chunk["value"][:count].copy())
            at += count * row.itemsize
            if count < rows:
                break
            rows = min(2 * rows, 2**16)
        if at == start:
            raise WireError(f"field cut short at byte {start}")
        return np.concatenate(parts), at


def signed(value):
    """A varint as the int64 that it encodes."""
    return value - 2**64 if value >= 2**63 else value
