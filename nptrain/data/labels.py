"""The labels of a source's images: by class folders, or by a list file."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from nptrain.data.classes import class_name, lines_of, read_classes, read_names
from nptrain.errors import InputError, printable, reason
from nptrain.files import check_regular

SPLITS = ("train", "val", "valid", "validation", "test")
MAX_LABEL = 2**31 - 1  # a Datum's label is an int32


@dataclass(frozen=True)
class Labels:
    """What labels are made of: the flags of bin/make_lmdb. Without any, they are the places of the class folders in
    sorted order.

    split       use the class folders in the folder of this name
    list_file   lines "path label", instead of class folders
    classes     a file of the names of the list's classes
    classes_of  number the class folders like this data set (the folder of an LMDB, or a file of names)
    """

    split: str | None = None
    list_file: str | None = None
    classes: str | None = None
    classes_of: str | None = None

    def check(self):
        """Raise InputError for flags that exclude each other."""
        for flag, value, use in (
            ("--split", self.split, "which names the images itself"),
            ("--classes-of", self.classes_of, "whose labels are numbers: name them with --classes"),
        ):
            if self.list_file and value:
                raise InputError(f"{flag}: cannot be used with --list, {use}")
        if self.classes and not self.list_file:
            raise InputError("--classes: expected only with --list: class folders have names")


@dataclass
class Part:
    """The images of one data set.

    split    the name of its folder in lower case, if the source has several; else ""
    entries  [(name of a file, label)], in sorted order or that of the list
    names    of the classes, in the order of the labels; None if they have none
    skipped  [(name, reason)] of what is no image of a class
    """

    split: str
    entries: list[tuple[str, int]]
    names: list[str] | None
    skipped: list[tuple[str, str]] = field(default_factory=list)


def label(source, labels):
    """The Parts of a source (of sources.py): one, or without `labels.split` all of the SPLITS that it has.

    Raises InputError for class folders, a list or names that are not as expected.
    """
    labels.check()
    if labels.list_file:
        entries = by_list(source, labels.list_file)
        names = read_names(labels.classes) if labels.classes else None
        large = names and next((entry for entry in entries if entry[1] >= len(names)), None)
        if large:
            raise InputError(f"--list {labels.list_file}: {large[0]}: found label {large[1]}, expected 0.."
                             f"{len(names) - 1}, the classes of {labels.classes}")  # fmt: skip
        return [Part("", entries, names)]
    roots = _class_roots(source, labels.split)
    names, where = _numbering(labels.classes_of) if labels.classes_of else (None, None)
    parts = []
    for split, root in roots:
        part = _by_class_folders(source, split, root, names, where)
        if names is None:
            names, where = part.names, f"{source.path}/{root}"
        parts.append(part)
    return parts


def _numbering(data):
    """The class names of the data set `data`, or of a file of names; and what to call it."""
    is_data = os.path.isdir(data) or Path(data).suffix == ".mdb"
    names = read_classes(data) if is_data else read_names(data)
    if names is None:
        raise InputError(f"--classes-of {data}: found no classes.txt, which names its classes")
    if len(set(names)) < len(names):
        raise InputError(f"--classes-of {data}: found a name twice: {_some(_repeated(names))}")
    return names, f"--classes-of {data}"


def _by_class_folders(source, split, root, numbering, where):
    """The Part of the class folders in `root`, at any depth in them. `numbering`: the names in the order of the labels,
    those of `where`; None: the sorted names of the folders.
    """
    names = source.names()
    folders, _ = _children(names, root)
    if not folders:
        packed = [name for name in names if name.lower().endswith((".tar", ".tgz", ".gz", ".xz", ".bz2", ".zip"))]
        hint = ": unpack its archives first, one folder for each class" if packed else ""
        hint = hint or (": --split converts another folder alone" if split else "")
        raise InputError(f"{source.path}: found no class folders in {root or 'it'}{hint}")
    found = [class_name(folder) for folder in folders]
    if len(set(found)) < len(found):
        raise InputError(f"{source.path}: found class folders of the same name: {_some(_repeated(found))}")
    numbering = numbering or found
    places = {name: number for number, name in enumerate(numbering)}
    if unknown := [name for name in found if name not in places]:
        place = f"{source.path}/{root}".removesuffix("/")
        raise InputError(f"{place}: found {len(unknown)} class folders that {where} does not have: {_some(unknown)}")
    numbers = {folder: places[name] for folder, name in zip(folders, found, strict=True)}
    part = Part(split, [], numbering, [entry for entry in source.skipped if entry[0].startswith(root)])
    for name in names:
        if name.startswith(root) and not name.endswith("/"):
            folder, inside, _ = name.removeprefix(root).partition("/")
            if inside:
                part.entries.append((name, numbers[folder]))
            else:
                part.skipped.append((name, "in no class folder"))
    return part


def _class_roots(source, split):
    """[(split in lower case, the beginning of the names of all its class folders)]: a folder's name with "/", or "".

    A single folder that contains everything else is skipped.
    """
    names, root = source.names(), ""
    while True:
        folders, _ = _children(names, root)
        chosen = [folder for folder in folders if split and folder.lower() == split.lower()]
        if chosen:
            return [("", f"{root}{split if split in chosen else chosen[0]}/")]
        splits = [] if split else [folder for folder in folders if folder.lower() in SPLITS]
        if len(splits) > 1:
            return _all_splits(source, root, splits, folders)
        inner = f"{root}{folders[0]}/" if len(folders) == 1 else None
        if inner and (split or not _children(names, inner)[1]):
            root = inner  # a folder that contains everything; with files in it, it would be a class
        elif split:
            raise InputError(
                f"{source.path}: found no folder {split} (--split): it has {_some(folders) or 'no folders'}"
            )
        else:
            return [("", root)]


def _all_splits(source, root, splits, folders):
    """The roots of `splits`, in the order of SPLITS. There must be no other `folders`, which could be classes."""
    if len(splits) < len(folders) or len({name.lower() for name in splits}) < len(splits):
        raise InputError(f"{source.path}: found the splits {_some(splits)} among the folders {_some(folders)}: choose "
                         "one with --split")  # fmt: skip
    return [(name.lower(), f"{root}{name}/") for name in sorted(splits, key=lambda name: SPLITS.index(name.lower()))]


def _children(names, root):
    """The sorted folders directly in `root`, and whether there are files beside them."""
    below = [name[len(root) :] for name in names if name.startswith(root) and name != root]
    return sorted({name.partition("/")[0] for name in below if "/" in name}), any("/" not in n for n in below)


def by_list(source, list_file):
    """Label files by a list of lines "path label". Paths are relative to the source or, if the list is a file of the
    source, to its folder.

    Returns [(name, label)] in the order of the list. Raises InputError for a list that cannot be found or is no text, a
    line of another form, or files that are not there.
    """
    where, text, base = _list(source, list_file)
    entries, missing = [], []
    for number, line in enumerate(lines_of(text, where), 1):
        words = line.strip().rsplit(None, 1)
        if not words:
            continue
        digits = words[-1].lstrip("0") or "0"
        if len(words) < 2 or not words[1].isdecimal() or len(digits) > 10 or int(digits) > MAX_LABEL:
            raise InputError(f"{where}: line {number}: found {line.strip()!r}, expected: path label")
        name = base + words[0].removeprefix("./")
        entries.append((name, int(digits)))
        if name not in source:
            missing.append(f"{name} (line {number})")
    if missing:
        raise InputError(f"{where}: found {len(missing)} of its {len(entries)} files not in {source.path}: "
                         f"{_some(missing)}")  # fmt: skip
    return entries


def _list(source, list_file):
    """What to call the list file, its bytes, and the beginning of all names that it means."""
    if os.path.exists(list_file):
        try:
            check_regular(list_file)
            return list_file, Path(list_file).read_bytes(), ""
        except OSError as error:
            raise InputError(f"--list {list_file}: cannot be read: {reason(error)}") from None
    found = [name for name in source.names() if f"/{name}".endswith(f"/{list_file}")]
    if not found:
        raise InputError(f"--list {list_file}: found neither here nor in {source.path}")
    if len(found) > 1:
        raise InputError(f"--list {list_file}: found more than once in {source.path}: {_some(found)}")
    return f"{source.path}: {found[0]}", source.read(found[0]), found[0].removesuffix(PurePosixPath(found[0]).name)


def _repeated(names):
    return [name for name, count in Counter(names).items() if count > 1]


def _some(names, count=5):
    """The first few of many names, for a line of text."""
    shown = [printable(name, 100) for name in names[: count + 1]]
    return ", ".join([*shown[:count], "..."] if len(names) > count else shown)
