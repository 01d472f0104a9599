"""Where images come from: a folder or a tar archive.

Names of files are relative, with "/". Both kinds of source have `names()`, `name in source`, `read(name)` and
`close()`; after `names()` there are also

skipped   [(name, reason)] of what is no file: pipes, devices, links to nothing or to a folder above them
left_out  a Counter of what tools leave behind, with all it contains: hidden files and folders, and LEFT_BEHIND
"""

import bz2
import gzip
import lzma
import os
import posixpath
import tarfile
import tempfile
from collections import Counter
from pathlib import Path, PurePosixPath

from nptrain.errors import InputError, reason
from nptrain.files import check_regular, writing

UNPACKERS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}  # by the first bytes of a file
# Of macOS, Windows, Linux and network storage; in lower case.
LEFT_BEHIND = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
               "lost+found", "@eadir", "@recycle", "#recycle"}  # fmt: skip
MAX_FILE = 1 << 30  # bytes: more than any image of MAX_PIXELS, and less than a Datum may have


def open_source(path, temporary):
    """The Folder or Tar at `path`; a compressed archive is unpacked into the folder `temporary`.

    Raises InputError if it is neither.
    """
    return Folder(path) if os.path.isdir(path) else Tar(path, temporary)


def left_behind(name):
    """Whether a file or folder of this name, without its path, is no part of a data set."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


class Folder:
    """The files below a folder. Links are followed, but not to a folder above them. Raises InputError for a folder that
    cannot be read.
    """

    def __init__(self, path):
        self.path = path
        self.skipped, self.left_out = [], Counter()
        self._names = None

    def names(self):
        """Sorted names of all files, and of all folders with a "/" at the end."""
        if self._names is None:
            self._names = []
            waiting = [("", (self._identity(os.stat(self.path)),))]  # a folder, and which folders it is in
            while waiting:
                base, above = waiting.pop()
                try:
                    with os.scandir(os.path.join(self.path, base)) as entries:
                        waiting += [inner for entry in entries for inner in self._visit(entry, base, above)]
                except OSError as error:
                    raise InputError(f"{Path(self.path, base)}: cannot be read: {reason(error)}") from None
            self._names.sort()
        return self._names

    def _visit(self, entry, base, above):
        """Take a note of one entry of the folder `base`; yields it, for a folder to visit."""
        name = base + entry.name
        if left_behind(entry.name):
            self.left_out[_kind(entry.name)] += 1
            return
        try:
            if entry.is_dir():
                identity = self._identity(entry.stat())
                if identity in above:
                    self.skipped.append((name, "a link to a folder that it is in"))
                else:
                    self._names.append(f"{name}/")
                    yield f"{name}/", (*above, identity)
            elif entry.is_file():
                self._names.append(name)
            else:
                self.skipped.append((name, "not a file: a link to nothing, or a pipe, a socket or a device"))
        except OSError as error:
            self.skipped.append((name, str(reason(error))))

    @staticmethod
    def _identity(status):
        return status.st_dev, status.st_ino

    def __contains__(self, name):
        return os.path.isfile(os.path.join(self.path, name))

    def read(self, name):
        """The bytes of a file, of at most MAX_FILE; from any thread. Raises InputError, OSError."""
        path = Path(self.path, name)
        _check_size(path.stat().st_size)
        return path.read_bytes()

    def close(self):
        pass


class Tar:
    """The files in a tar archive, plain or compressed. Links are followed to files of the archive.

    A plain archive is read in place, in any order. A compressed one can only be read from its beginning, so it is
    unpacked first, to an unnamed file in the folder `temporary`, which disappears when the process ends. An archive of
    nothing but .tar files, as ImageNet's, is read as one of folders: N.tar as the folder N.
    """

    def __init__(self, path, temporary):
        self.path = path
        self.skipped, self.left_out = [], Counter()
        self._spans = {}  # {name: (offset, size), or None for a folder}
        self._names = None
        try:
            check_regular(path)
            self._file = _plain(path, temporary)
            self._index()
            files = [name for name in self.names() if self._spans[name]]
            if files and all(name.lower().endswith(".tar") for name in files):
                self._names = None
                for name in files:
                    offset, size = self._spans.pop(name)
                    self._index(f"{name[:-4]}/", offset, offset + size)
        except tarfile.TarError as error:
            expected = "a folder or a whole .tar, .tar.gz, .tar.xz or .tar.bz2"
            raise InputError(f"{path}: found no tar archive ({error}), expected {expected}") from None
        except InputError:
            raise
        except Exception as error:  # each of the readers fails in its own ways
            raise InputError(f"{path}: cannot be read: {str(reason(error)) or type(error).__name__}") from None

    def _index(self, base="", begin=0, end=None):
        """Add the members of the archive in the bytes begin..end-1 of the file, as files in the folder `base`."""
        self._file.seek(begin)
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            links, place = {}, begin - 1
            while member := archive.next():
                archive.members.clear()  # tarfile keeps a kilobyte per file
                if member.size < 0 or archive.offset <= place:  # it would go round in circles
                    raise tarfile.ReadError(f"damaged at byte {member.offset}")
                place = archive.offset
                name = base + _normal(member.name)
                if member.isdir():
                    if _normal(member.name) != ".":  # the folder around all
                        self._spans[f"{name}/"] = None
                elif member.isreg():
                    self._spans[name] = (member.offset_data, member.size)
                elif member.islnk():
                    links[name] = base + _normal(member.linkname)
                elif member.issym():
                    links[name] = base + _normal(posixpath.join(posixpath.dirname(member.name), member.linkname))
                else:
                    links[name] = None
            # tarfile takes a damaged header for the end
            rest = os.pread(self._file.fileno(), 512, archive.offset)
            if rest.strip(b"\0") and (end is None or archive.offset < end):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
        for name, target in links.items():
            for _ in range(40):  # a link to a link
                target = links.get(target, target)
            if span := self._spans.get(target):
                self._spans[name] = span
            elif not any(map(left_behind, name.split("/"))):
                self.skipped.append((name, "not a file, nor a link to a file of the archive"))

    def names(self):
        """Sorted names of all files, and of all folders with a "/" at the end."""
        if self._names is None:
            self._names, self.left_out, folders = [], Counter(), set()
            for name in sorted(self._spans):
                parts = name.removesuffix("/").split("/")
                found = next((at for at, part in enumerate(parts) if left_behind(part)), None)
                if found is None:
                    self._names.append(name)
                    continue
                is_folder, place = found + 1 < len(parts) or name.endswith("/"), tuple(parts[: found + 1])
                if not is_folder or place not in folders:
                    self.left_out[_kind(parts[found])] += 1
                    folders |= {place} if is_folder else set()
        return self._names

    def __contains__(self, name):
        return self._spans.get(name) is not None

    def read(self, name):
        """The bytes of a file, of at most MAX_FILE; from any thread. Raises InputError, OSError."""
        offset, size = self._spans[name]
        _check_size(size)
        return os.pread(self._file.fileno(), size, offset)

    def close(self):
        self._file.close()


def _plain(path, temporary):
    """The archive's bytes as an open file: itself, or unpacked to an unnamed one in the folder `temporary`."""
    with open(path, "rb") as file:
        begin = file.read(8)
    for magic, unpack in UNPACKERS.items():
        if begin.startswith(magic):
            with writing(temporary):
                file = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115, Tar.close() closes it
            with unpack(path) as packed:
                while block := packed.read(1 << 20):
                    with writing(temporary):
                        file.write(block)
                        file.flush()
            file.seek(0)
            return file
    return open(path, "rb")


def _normal(name):
    """A member's name, as it is in the folder that the archive was made of."""
    return posixpath.normpath(PurePosixPath(name).as_posix().lstrip("/"))


def _kind(name):
    """What is counted as one kind of things left behind: macOS makes a file ._NAME for each file."""
    return "._*" if name.startswith("._") else name


def _check_size(size):
    """Raise InputError for a file that is too large for an image."""
    if size > MAX_FILE:
        raise InputError(f"found {size} bytes, expected at most {MAX_FILE}")
