"""Making LMDBs from folders, lists and archives, and the command around it."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from images import image, image_file
from PIL import Image
from shared import shared

from nptrain.data.augment import shorter_side
from nptrain.data.convert import convert
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError

MAKE_LMDB = Path(__file__).resolve().parents[1] / "bin" / "make_lmdb"


def stored(path):
    """{name: (label, image)} of an LMDB, in key order; the numbers of its keys must be 0, 1, ..."""
    dataset = LmdbDataset(path)
    keys = [dataset.key(i).decode().partition("_") for i in range(len(dataset))]
    assert [int(number) for number, _, _ in keys] == list(range(len(dataset)))
    return {name: (dataset[i][1], dataset[i][0]) for i, (_, _, name) in enumerate(keys)}


def labels(path):
    return {name: label for name, (label, _) in stored(path).items()}


EXPECTED = {f"{name}/{i}.png": label for label, name in enumerate(("ant", "bee", "cow")) for i in range(4)}


@pytest.fixture
def files():
    """{name: bytes}: three classes of four images, the last one in a folder of its class folder."""
    return {name: image_file(image(i)) for i, name in enumerate(EXPECTED)}


def make_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def make_tar(path, files, prefix="", mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_folder(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    summary = convert(source, tmp_path / "set")
    assert (summary.records, summary.classes, summary.skipped) == (12, 3, [])
    found = stored(tmp_path / "set")
    assert {name: label for name, (label, _) in found.items()} == EXPECTED
    assert all((np.asarray(found[name][1]) == np.asarray(image(i))).all() for i, name in enumerate(files))
    assert (tmp_path / "set" / "classes.txt").read_text() == "ant\nbee\ncow\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "source"]


def test_files_are_stored_as_they_are(tmp_path, files):
    jpeg = image_file(image(3), "JPEG", quality=30)
    convert(make_folder(tmp_path / "source", files | {"ant/j.jpg": jpeg}), tmp_path / "set", shuffle=False)
    dataset = LmdbDataset(tmp_path / "set")
    records = [dataset.datum(i) for i in range(len(dataset))]
    assert [record.data for record in records] == [*list(files.values())[:4], jpeg, *list(files.values())[4:]]
    assert all(record.encoded for record in records)


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")]
)
@pytest.mark.parametrize("prefix", ["", "./", "around/it/"])
def test_tar_is_its_folder(tmp_path, files, suffix, mode, prefix):
    convert(make_folder(tmp_path / "source", files), tmp_path / "expected")
    convert(make_tar(tmp_path / f"a{suffix}", files, prefix, mode), tmp_path / "set")
    assert [(k.removeprefix("around/it/"), v) for k, v in labels(tmp_path / "set").items()] == list(
        labels(tmp_path / "expected").items()
    )


def test_links_and_deep_and_hidden_files(tmp_path, files):
    archive = make_tar(
        tmp_path / "a.tar", files | {"ant/deep/er.png": files["ant/0.png"], ".hidden/x.png": b"", "ant/._y.png": b""}
    )
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("cow/link.png")
        link.type, link.linkname = tarfile.LNKTYPE, "bee/0.png"
        tar.addfile(link)
    convert(archive, tmp_path / "set")
    found = stored(tmp_path / "set")
    assert {name: label for name, (label, _) in found.items()} == EXPECTED | {"ant/deep/er.png": 0, "cow/link.png": 2}
    assert found["cow/link.png"][1].tobytes() == found["bee/0.png"][1].tobytes()


def test_an_empty_class_keeps_its_number(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    (source / "bat").mkdir()
    convert(source, tmp_path / "set")
    assert set(labels(tmp_path / "set").values()) == {0, 2, 3}
    assert (tmp_path / "set" / "classes.txt").read_text() == "ant\nbat\nbee\ncow\n"


def test_order(tmp_path, files):
    source = make_folder(tmp_path / "source", files)

    def order(name, **options):
        convert(source, tmp_path / name, **options)
        return list(labels(tmp_path / name))

    assert order("sorted", shuffle=False) == list(files)
    shuffled = order("shuffled", threads=1)
    assert sorted(shuffled) == list(files)
    assert shuffled != list(files)
    assert order("again", threads=3) == shuffled
    assert order("other", seed=1) != shuffled
    assert order("limit", limit=5) == shuffled[:5]
    assert order("large limit", limit=500) == shuffled


def test_splits(tmp_path, files):
    both = {f"top/{split}/{name}": content for split in ("train", "val") for name, content in files.items()}
    for source in (make_folder(tmp_path / "source", both), make_tar(tmp_path / "a.tar", both)):
        with pytest.raises(InputError, match=f"{source.name}: found the splits train, val: choose one with --split"):
            convert(source, tmp_path / "set")
        with pytest.raises(InputError, match=rf"{source.name}: found no folder test \(--split\): it has train, val"):
            convert(source, tmp_path / "set", split="test")
        convert(source, tmp_path / f"{source.name}-set", split="val")
        assert labels(tmp_path / f"{source.name}-set") == {f"top/val/{name}": label for name, label in EXPECTED.items()}


def test_list_on_disk(tmp_path, files):
    source = make_folder(tmp_path / "source", files | {"b c.png": files["ant/0.png"]})
    lines = tmp_path / "list.txt"
    lines.write_text("cow/1.png 7\n\n./ant/0.png\t3\nb c.png 999\ncow/1.png 8\n")
    summary = convert(source, tmp_path / "set", list_file=lines, shuffle=False)
    assert (summary.records, summary.classes) == (4, 4)
    dataset = LmdbDataset(tmp_path / "set")
    assert [label for _, label in dataset] == [7, 3, 999, 8]
    assert [dataset.key(i) for i in (1, 2)] == [b"00000001_ant/0.png", b"00000002_b c.png"]
    assert not (tmp_path / "set" / "classes.txt").exists()


def test_list_in_the_source(tmp_path, files):
    inside = {f"top/{name}": content for name, content in files.items()} | {
        "top/labels.txt": b"ant/1.png 5\ncow/0.png 4\n"
    }
    for source in (make_folder(tmp_path / "source", inside), make_tar(tmp_path / "a.tar", inside)):
        for list_file in ("labels.txt", "top/labels.txt"):
            out = tmp_path / f"{source.name}-{len(list_file)}"
            convert(source, out, list_file=list_file)
            assert labels(out) == {"top/ant/1.png": 5, "top/cow/0.png": 4}


def test_list_errors(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    lines = tmp_path / "list.txt"
    for text, message in (
        ("ant/0.png 1\nant/0.png one\n", "list.txt: line 2: found 'ant/0.png one', expected: path label"),
        ("ant/0.png\n", "list.txt: line 1: found 'ant/0.png', expected: path label"),
        ("ant/0.png -1\n", "list.txt: line 1: found 'ant/0.png -1', expected: path label"),
        ("ant/0.png 99999999999\n", "list.txt: line 1: found 'ant/0.png 99999999999', expected: path label"),
        ("ant/0.png 1\nant/x.png 1\n", "list.txt: line 2: found no file ant/x.png in .*source"),
    ):
        lines.write_text(text)
        with pytest.raises(InputError, match=message):
            convert(source, tmp_path / "set", list_file=lines)
    with pytest.raises(InputError, match=r"--list none.txt: found neither here nor in .*source"):
        convert(source, tmp_path / "set", list_file="none.txt")
    twice = make_tar(tmp_path / "a.tar", {"a/labels.txt": b"", "b/labels.txt": b""})
    with pytest.raises(InputError, match=r"found more than once in .*a.tar: a/labels.txt, b/labels.txt"):
        convert(twice, tmp_path / "set", list_file="labels.txt")
    with pytest.raises(InputError, match="--split: cannot be used with --list"):
        convert(source, tmp_path / "set", list_file=lines, split="train")
    assert not (tmp_path / "set").exists()


def test_resize(tmp_path):
    pictures = {"a/big.png": image(1, 60, 48), "a/small.png": image(2, 12, 20), "a/right.png": image(3, 24, 30)}
    source = make_folder(tmp_path / "source", {name: image_file(picture) for name, picture in pictures.items()})
    convert(source, tmp_path / "set", resize=24)
    found = {name: picture for name, (_, picture) in stored(tmp_path / "set").items()}
    assert {name: picture.size for name, picture in found.items()} == {
        "a/big.png": (30, 24), "a/small.png": (24, 40), "a/right.png": (24, 30),
    }  # fmt: skip
    assert found["a/right.png"].tobytes() == pictures["a/right.png"].tobytes(), "stored as it was"
    jpeg = image_file(shorter_side(pictures["a/big.png"], 24), "JPEG", quality=95)
    assert found["a/big.png"].tobytes() == Image.open(io.BytesIO(jpeg)).tobytes()


def test_raw(tmp_path):
    pictures = {"a/big.png": image(1, 60, 48), "a/grey.png": image(2, 24, 24, "L")}
    source = make_folder(tmp_path / "source", {name: image_file(picture) for name, picture in pictures.items()})
    convert(source, tmp_path / "set", raw=True, resize=24)
    dataset = LmdbDataset(tmp_path / "set")
    assert not any(dataset.datum(i).encoded for i in range(2))
    found = {name: picture.tobytes() for name, (_, picture) in stored(tmp_path / "set").items()}
    assert found["a/big.png"] == shorter_side(pictures["a/big.png"], 24).tobytes(), "not through JPEG"
    assert found["a/grey.png"] == pictures["a/grey.png"].convert("RGB").tobytes()


def test_what_is_no_image_is_skipped(tmp_path, files):
    bad = {"ant/notes.txt": b"hello", "bee/short.png": files["bee/1.png"][:-99], "stray.png": files["ant/0.png"]}
    summary = convert(make_folder(tmp_path / "source", files | bad), tmp_path / "set")
    skipped = dict(summary.skipped)
    assert summary.records == 12
    assert labels(tmp_path / "set") == EXPECTED
    assert set(skipped) == set(bad)
    assert skipped["ant/notes.txt"] == "found 5 bytes that are not an image file"
    assert skipped["bee/short.png"].startswith("the image does not decode: ")
    assert skipped["stray.png"] == "in no class folder"


def test_errors_leave_nothing(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    damaged = make_tar(tmp_path / "damaged.tar.xz", files, mode="w:xz")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    short = make_tar(tmp_path / "short.tar", files)
    short.write_bytes(short.read_bytes()[:3000])
    before = sorted(tmp_path.iterdir())
    bad = make_folder(tmp_path / "bad", {"a/x.png": b"no image"})
    flat = make_folder(tmp_path / "flat", {"x.png": files["ant/0.png"]})
    for where, options, message in (
        (tmp_path / "none", {}, "none: no such folder or archive"),
        (source / "ant" / "0.png", {}, r"0.png: found no tar archive .*expected a folder or a whole .tar"),
        (damaged, {}, r"damaged.tar.xz: cannot be read: "),
        (short, {}, r"short.tar: found no tar archive \(unexpected end of data\)"),
        (bad, {}, r"bad: found no image in 1 files; the first, a/x.png: found 8 bytes that are not an image"),
        (flat, {}, "flat: found no class folders"),
        (source, {"limit": 0}, "--limit: found 0, expected 1 or more"),
        (source, {"resize": -1}, "--resize: found -1, expected 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            convert(where, tmp_path / "set", **options)
    assert sorted(tmp_path.iterdir()) == sorted([*before, bad, flat])
    with pytest.raises(InputError, match="bad: exists already"):
        convert(source, bad)


def make_lmdb(*arguments):
    return subprocess.run(
        [sys.executable, MAKE_LMDB, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_command(tmp_path, files):
    source = make_folder(tmp_path / "source", files | {"ant/notes.txt": b"hello"})
    done = make_lmdb(source, tmp_path / "set", "--resize", 16, "--limit", 13, "--seed", 3, "--no-shuffle")
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped ant/notes.txt: found 5 bytes that are not an image file\n" in done.stdout
    assert f"{tmp_path / 'set'}: 12 records, 3 classes, " in done.stdout
    assert list(labels(tmp_path / "set")) == list(EXPECTED)
    done = make_lmdb(source, tmp_path / "set")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("make_lmdb: ")
    assert done.stderr.count("\n") == 1
    assert "exists already" in done.stderr


def test_imagenet_samples(tmp_path):
    summary = convert(
        shared("data/imagenet_samples.tar"), tmp_path / "set", list_file="labels.txt", resize=64, limit=40
    )
    assert (summary.records, summary.classes, summary.skipped) == (40, 40, [])
    assert all(min(picture.size) == 64 for picture, _ in LmdbDataset(tmp_path / "set", classes=1000))
