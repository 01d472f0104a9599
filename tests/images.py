"""Small images, image files and data sets that the tests of the data side make for themselves."""

import io
import tarfile

import numpy as np
from PIL import Image

from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb


def image(seed=0, width=20, height=16, mode="RGB"):
    """A smooth random PIL image (so that JPEG changes it little); every seed another."""
    rng = np.random.Generator(np.random.Philox(seed))
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def image_file(picture, kind="PNG", **options):
    """The bytes of a PIL image as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def make_dataset(path, records, **size):
    """An LMDB of `records` different PNG images; the label of record i is i % 5."""
    write_lmdb(path, ((f"{i}.png", encoded_datum(image_file(image(i, **size)), i % 5)) for i in range(records)))
    return path


CLASSES = {f"{name}/{i}.png": label for label, name in enumerate(("ant", "bee", "cow")) for i in range(4)}


def class_files():
    """{name: bytes}: four images in each of three class folders; CLASSES has their labels."""
    return {name: image_file(image(i)) for i, name in enumerate(CLASSES)}


def make_folder(path, files):
    """A folder of files {name: bytes}."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def make_tar(path, files, prefix="", mode="w", **members):
    """A tar archive of files {name: bytes}; `members`: other kinds of entries, {name: (type, name of the target)}."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, (kind, target) in members.items():
            member = tarfile.TarInfo(prefix + name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return path


def stored(path):
    """{name: (label, image)} of an LMDB, in key order; the numbers of its keys must be 0, 1, ..."""
    dataset = LmdbDataset(path)
    keys = [dataset.key(i).decode(errors="surrogateescape").partition("_") for i in range(len(dataset))]
    assert [int(number) for number, _, _ in keys] == list(range(len(dataset)))
    return {name: (dataset[i][1], dataset[i][0]) for i, (_, _, name) in enumerate(keys)}


def labels_of(path):
    """{name: label} of an LMDB, in key order."""
    return {name: label for name, (label, _) in stored(path).items()}
