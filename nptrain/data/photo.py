"""Photographs in files: found, read, turned upright, prepared as the images of a test."""

import os
from pathlib import Path

from nptrain.data.datum import open_file, rgb
from nptrain.data.storage import upright
from nptrain.errors import InputError, reason
from nptrain.files import check_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")  # of files that a folder is searched for


def files_in(path):
    """`path`, or if it is a folder, the image files in it and in the folders below, sorted; hidden ones are left out.
    Raises InputError for a folder without any.
    """
    if not os.path.isdir(path):
        return [str(path)]
    found = []
    for folder, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [os.path.join(folder, name) for name in sorted(names)
                  if not name.startswith(".") and name.lower().endswith(SUFFIXES)]  # fmt: skip
    if not found:
        raise InputError(f"{path}: found no image in this folder, expected names that end in {', '.join(SUFFIXES)}")
    return found


def read_photo(path):
    """The image file `path` as PIL RGB, turned as its EXIF orientation says. Raises InputError, which begins with the
    path, for a file that cannot be read, or is no image.
    """
    try:
        check_regular(path)
        file = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    opened = open_file(file, path)
    return upright(opened, rgb(opened, file, path))
