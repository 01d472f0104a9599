"""Where images come from: a folder or a tar archive, labelled by class folders or by a list file.

Names of files are relative, with "/"; hidden files and folders are left out.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from nptrain.errors import InputError, reason

SPLITS = {"train", "val", "test", "valid", "validation"}
MAX_LABEL = 2**31 - 1  # a Datum's label is an int32
UNPACKERS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}  # by the first bytes of a file


def open_source(path, temporary):
    """The Folder or Tar at `path`; a compressed archive is unpacked into the folder `temporary`.

    Raises InputError if it is neither.
    """
    return Folder(path) if os.path.isdir(path) else Tar(path, temporary)


class Folder:
    """The files below a folder. `names()`, `name in folder` and `folder.read(name)`."""

    def __init__(self, path):
        self.path = path

    def names(self):
        """Sorted names of all files, and of all folders with a "/" at the end."""
        names = []
        for place, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(place).relative_to(self.path).as_posix() + "/"
            base = base.removeprefix("./")
            names += [f"{base}{name}/" for name in folders]
            names += [base + name for name in files if not name.startswith(".")]
        return sorted(names)

    def __contains__(self, name):
        return os.path.isfile(os.path.join(self.path, name))

    def read(self, name):
        """The bytes of a file; from any thread."""
        return Path(self.path, name).read_bytes()

    def close(self):
        pass


class Tar:
    """The files in a tar archive, plain or compressed; the same interface.

    A plain archive is read in place, in any order. A compressed one can only be read from its beginning, so it is
    unpacked first, to an unnamed file in the folder `temporary`, which disappears when the process ends.
    """

    def __init__(self, path, temporary):
        self.path = path
        self._spans = {}  # {name: (offset, size), or None for a folder}
        try:
            self._file = _plain(path, temporary)
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                self._index(archive)
        except tarfile.TarError as error:
            expected = "a folder or a whole .tar, .tar.gz, .tar.xz or .tar.bz2"
            raise InputError(f"{path}: found no tar archive ({error}), expected {expected}") from None
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{path}: cannot be read: {reason(error)}") from None

    def _index(self, archive):
        while member := archive.next():
            archive.members.clear()  # tarfile keeps a kilobyte per file
            name = PurePosixPath(member.name).as_posix().lstrip("/")
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if member.isdir():
                self._spans[name + "/"] = None
            elif member.isreg():
                self._spans[name] = (member.offset_data, member.size)
            elif member.islnk() and member.linkname in self._spans:
                self._spans[name] = self._spans[member.linkname]

    def names(self):
        """Sorted names of all files, and of all folders with a "/" at the end."""
        return sorted(self._spans)

    def __contains__(self, name):
        return self._spans.get(name) is not None

    def read(self, name):
        """The bytes of a file; from any thread."""
        offset, size = self._spans[name]
        return os.pread(self._file.fileno(), size, offset)

    def close(self):
        self._file.close()


def _plain(path, temporary):
    """The archive's bytes as an open file: itself, or unpacked to an unnamed one in the folder `temporary`."""
    with open(path, "rb") as file:
        begin = file.read(8)
    for magic, unpack in UNPACKERS.items():
        if begin.startswith(magic):
            file = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115, Tar.close() closes it
            with unpack(path) as packed:
                shutil.copyfileobj(packed, file, 1 << 20)
            file.seek(0)
            return file
    return open(path, "rb")


def by_class_folders(source, split=None):
    """Label the files of a source by the class folder they are in, at any depth.

    Class folders are those in the folder `split`, or at the top; a single folder that contains
    everything else is skipped. Returns [(name, label)] in sorted order, the sorted class names, whose places are the
    labels, and the names of files in no class folder. Raises InputError if there are no class folders, no
    such split, or if the folders are splits and none was chosen.
    """
    names = source.names()
    root = _class_root(source, names, split)
    classes, _ = _children(names, root)
    if not classes:
        raise InputError(f"{source.path}: found no class folders in {root or 'it'}")
    labels = {name: label for label, name in enumerate(classes)}
    entries, stray = [], []
    for name in names:
        if name.startswith(root) and not name.endswith("/"):
            folder, inside, _ = name.removeprefix(root).partition("/")
            if inside:
                entries.append((name, labels[folder]))
            else:
                stray.append(name)
    return entries, classes, stray


def _class_root(source, names, split):
    """The beginning of the names of all class folders: "" or a folder's name with "/"."""
    root = ""
    while True:
        folders, _ = _children(names, root)
        if split in folders:
            return f"{root}{split}/"
        choice = ", ".join(folders[:10]) + (", ..." if len(folders) > 10 else "")
        if not split and len(SPLITS.intersection(folders)) > 1:
            raise InputError(f"{source.path}: found the splits {choice}: choose one with --split")
        inner = f"{root}{folders[0]}/" if len(folders) == 1 else None
        if inner and (split or not _children(names, inner)[1]):
            root = inner  # a folder that contains everything; with files in it, it would be a class
        elif split:
            raise InputError(f"{source.path}: found no folder {split} (--split): it has {choice or 'no folders'}")
        else:
            return root


def _children(names, root):
    """The sorted folders directly in `root`, and whether there are files beside them."""
    below = [name[len(root) :] for name in names if name.startswith(root) and name != root]
    return sorted({name.partition("/")[0] for name in below if "/" in name}), any("/" not in n for n in below)


def by_list(source, list_file):
    """Label files by a list of lines "path label". Paths are relative to the source or, if the list is a file of the
    source, to its folder.

    Returns [(name, label)] in the order of the list. Raises InputError for a list that cannot be found, a
    line of another form, or a file that is not there.
    """
    base = ""
    if os.path.exists(list_file):
        where, text = list_file, Path(list_file).read_bytes()
    else:
        found = [name for name in source.names() if f"/{name}".endswith(f"/{list_file}")]
        if not found:
            raise InputError(f"--list {list_file}: found neither here nor in {source.path}")
        if len(found) > 1:
            raise InputError(f"--list {list_file}: found more than once in {source.path}: {', '.join(found)}")
        where, text = f"{source.path}: {found[0]}", source.read(found[0])
        base = found[0].removesuffix(PurePosixPath(found[0]).name)
    entries = []
    for number, line in enumerate(text.decode(errors="replace").splitlines(), 1):
        words = line.strip().rsplit(None, 1)
        if not words:
            continue
        if len(words) < 2 or not words[1].isdecimal() or int(words[1]) > MAX_LABEL:
            raise InputError(f"{where}: line {number}: found {line.strip()!r}, expected: path label")
        name = base + words[0].removeprefix("./")
        if name not in source:
            raise InputError(f"{where}: line {number}: found no file {name} in {source.path}")
        entries.append((name, int(words[1])))
    return entries
