"""The names of a data set's classes: classes.txt beside its data.mdb, in the order of the labels, one name a line."""

import os
from pathlib import Path

from nptrain.errors import InputError, printable, reason
from nptrain.files import check_regular

FILE = "classes.txt"
UTF_16 = b"\xff\xfe", b"\xfe\xff"  # the first bytes of such a file


def read_classes(data):
    """The names (list of str) of the data set `data`, the folder of an LMDB or its data.mdb; None if there are none.

    Raises InputError for a classes.txt that cannot be read, is no UTF-8 text, or has an empty line or no line.
    """
    path = Path(data)
    path = (path if path.is_dir() else path.parent) / FILE
    return read_names(path) if os.path.lexists(path) else None


def read_names(path):
    """The names in a file of one name a line; raises as `read_classes`."""
    try:
        check_regular(path)
        lines = lines_of(Path(path).read_bytes(), path)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{path}: is empty, expected one class name a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{path}: line {number}: is empty, expected the name of class {number - 1}")
        if any("\ud800" <= letter <= "\udfff" for letter in line):
            raise InputError(f"{path}: line {number}: found {line}, which is not UTF-8: save the file as UTF-8")
    return [class_name(line) for line in lines]


def lines_of(text, where):
    """The lines of a text file's bytes: UTF-8, with or without a byte order mark, lines ended as on any system. Other
    bytes become surrogates, as in the names of files. Raises InputError, beginning with `where`, for UTF-16.
    """
    if text.startswith(UTF_16) or b"\0" in text:
        raise InputError(f"{where}: found UTF-16 or binary data, expected a text: save the file as UTF-8")
    text = text.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def write_classes(folder, names):
    """Write the `names` to classes.txt in `folder`. Raises OSError."""
    text = "".join(f"{class_name(name)}\n" for name in names)
    (Path(folder) / FILE).write_text(text, encoding="utf-8")


def class_name(folder):
    """The name of a class folder as it is written: a line break, or what is no text, is escaped."""
    return printable(folder, 10_000)


def first_difference(names_a, names_b):
    """(label, name in `names_a`, name in `names_b`) of the first label that has two names; a list that ends there has
    None. None if the lists are the same.
    """
    for label in range(max(len(names_a), len(names_b))):
        a, b = (names[label] if label < len(names) else None for names in (names_a, names_b))
        if a != b:
            return label, a, b
    return None
