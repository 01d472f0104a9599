"""Making LMDBs from folders and archives, and the command around it."""

import os
import re
import signal
import time

import numpy as np
import pytest
from commands import call, start
from images import CLASSES, class_files, image, image_file, labels_of, make_folder, make_tar, stored
from PIL import Image
from shared import shared

from nptrain.data.convert import convert
from nptrain.data.labels import Labels
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.data.storage import Storage
from nptrain.errors import InputError


@pytest.fixture
def files():
    return class_files()


def test_folder(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    (summary,) = convert(source, tmp_path / "set")
    assert (summary.path, summary.records, summary.classes) == (tmp_path / "set", 12, 3)
    assert (summary.encoded, summary.skipped, summary.left_out) == (0, [], {})
    found = stored(tmp_path / "set")
    assert {name: label for name, (label, _) in found.items()} == CLASSES
    assert all((np.asarray(found[name][1]) == np.asarray(image(i))).all() for i, name in enumerate(files))
    assert (tmp_path / "set" / "classes.txt").read_text() == "ant\nbee\ncow\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "source"]


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")]
)
@pytest.mark.parametrize("prefix", ["", "./", "around/it/"])
def test_tar_is_its_folder(tmp_path, files, suffix, mode, prefix):
    convert(make_folder(tmp_path / "source", files), tmp_path / "expected")
    convert(make_tar(tmp_path / f"a{suffix}", files, prefix, mode), tmp_path / "set")
    assert [(k.removeprefix("around/it/"), v) for k, v in labels_of(tmp_path / "set").items()] == list(
        labels_of(tmp_path / "expected").items()
    )
    assert (tmp_path / "set" / "classes.txt").read_text() == "ant\nbee\ncow\n"


def test_an_empty_class_keeps_its_number(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    (source / "bat").mkdir()
    output, _ = call("make_lmdb", source, tmp_path / "set")
    assert set(labels_of(tmp_path / "set").values()) == {0, 2, 3}
    assert (tmp_path / "set" / "classes.txt").read_text() == "ant\nbat\nbee\ncow\n"
    assert "classes without images: 1 (bat)\n" in output


def test_order(tmp_path, files):
    source = make_folder(tmp_path / "source", files)

    def order(name, **options):
        convert(source, tmp_path / name, **options)
        return list(labels_of(tmp_path / name))

    assert order("sorted", shuffle=False) == list(files)
    shuffled = order("shuffled", threads=1)
    assert sorted(shuffled) == list(files)
    assert shuffled != list(files)
    assert order("again", threads=3) == shuffled
    assert order("other", seed=1) != shuffled
    assert order("limit", limit=5) == shuffled[:5]
    assert order("large limit", limit=500) == shuffled


def test_what_is_no_image_is_skipped(tmp_path, files):
    bad = {"ant/notes.txt": b"hello", "bee/short.png": files["bee/1.png"][:-99], "stray.png": files["ant/0.png"]}
    (summary,) = convert(make_folder(tmp_path / "source", files | bad), tmp_path / "set")
    skipped = dict(summary.skipped)
    assert summary.records == 12
    assert labels_of(tmp_path / "set") == CLASSES
    assert set(skipped) == set(bad)
    assert skipped["ant/notes.txt"] == "found 5 bytes that are not an image file"
    assert skipped["bee/short.png"].startswith("the image does not decode: ")
    assert skipped["stray.png"] == "in no class folder"


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd"), OSError(5, "Input/output error")])
def test_whatever_a_file_raises_the_others_are_converted(tmp_path, files, monkeypatch, error):
    def resized(image, size, shorter_side=Image.Image.resize):
        if image.tobytes() == Image.open(source / "bee/1.png").tobytes():
            raise error
        return image

    source = make_folder(tmp_path / "source", files)
    monkeypatch.setattr("nptrain.data.storage.shorter_side", resized)
    (summary,) = convert(source, tmp_path / "set", storage=Storage(resize=8))
    reason = {MemoryError: "MemoryError", ValueError: "odd", OSError: "Input/output error"}[type(error)]
    assert (summary.records, summary.skipped) == (11, [("bee/1.png", reason)])


def test_a_record_that_training_would_refuse_is_skipped(tmp_path, files, monkeypatch):
    monkeypatch.setattr("nptrain.data.convert.MAX_RECORD", len(files["bee/1.png"]) + 100)
    large = image_file(image(1, 300, 300))
    (summary,) = convert(make_folder(tmp_path / "source", files | {"ant/large.png": large}), tmp_path / "set")
    (name, reason), *_ = [entry for entry in summary.skipped if "large" in entry[0]]
    assert name == "ant/large.png"
    assert reason.startswith("found ")


def test_errors_leave_nothing(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    damaged = make_tar(tmp_path / "damaged.tar.xz", files, mode="w:xz")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    short = make_tar(tmp_path / "short.tar", files)
    short.write_bytes(short.read_bytes()[:3000])
    os.mkfifo(tmp_path / "pipe.tar")
    before = sorted(tmp_path.iterdir())
    bad = make_folder(tmp_path / "bad", {"a/x.png": b"no image"})
    flat = make_folder(tmp_path / "flat", {"x.png": files["ant/0.png"]})
    for where, options, message in (
        (tmp_path / "none", {}, "none: no such folder or archive"),
        (source / "ant" / "0.png", {}, r"0.png: found no tar archive .*expected a folder or a whole .tar"),
        (tmp_path / "pipe.tar", {}, "pipe.tar: cannot be read: not a regular file"),
        (damaged, {}, r"damaged.tar.xz: cannot be read: "),
        (short, {}, r"short.tar: found no tar archive \(unexpected end of data\)"),
        (bad, {}, r"bad: found no image in 1 file; the first, a/x.png: found 8 bytes that are not an image"),
        (flat, {}, "flat: found no class folders in it$"),
        (source, {"limit": 0}, "--limit: found 0, expected 1 or more"),
        (source, {"storage": Storage(resize=-1)}, "--resize: found -1, expected 1 or more"),
        (source, {"storage": Storage(raw=True, keep=True)}, "--keep: found together with --raw"),
    ):
        with pytest.raises(InputError, match=message):
            convert(where, tmp_path / "set", **options)
    assert sorted(tmp_path.iterdir()) == sorted([*before, bad, flat])
    with pytest.raises(InputError, match="bad: exists already"):
        convert(source, bad)


def test_command(tmp_path, files):
    odd = {"ant/notes.txt": b"hello", "__MACOSX/ant/._0.png": b"", "bee/grey.gif": image_file(image(mode="L"), "GIF"),
           "ant/a\n\x1b[31mred": b"", os.fsdecode(b"bee/b\xe4r"): b""}  # fmt: skip
    source = make_folder(tmp_path / "source", files | odd)
    output, errors = call("make_lmdb", source, tmp_path / "set", "--no-shuffle", "--seed", 3, "--limit", 16)
    lines = output.splitlines()
    assert lines[:4] == [
        "left out, as tools leave it behind: __MACOSX (1)",
        "skipped ant/a\\n\\x1b[31mred: found 0 bytes that are not an image file",
        "skipped ant/notes.txt: found 5 bytes that are not an image file",
        "skipped bee/b\\udce4r: found 0 bytes that are not an image file",
    ]
    assert lines[4].startswith(f"{tmp_path / 'set'}: 13 records, 1 of them encoded anew, 3 classes, ")
    assert re.search(r" MB, 3 files skipped, \d+\.\d s$", lines[4])
    assert (len(lines), "Error" in errors) == (5, False)
    assert list(labels_of(tmp_path / "set")) == sorted([*CLASSES, "bee/grey.gif"])
    output, errors = call("make_lmdb", source, tmp_path / "set", status=2)
    assert (output, errors) == (
        "",
        f"make_lmdb: {tmp_path / 'set'}: exists already: remove it or choose another name\n",
    )


def test_names_that_the_terminal_cannot_show(tmp_path, files, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    source = make_folder(tmp_path / "source", files | {"ant/ä.txt": b""})
    process = start("make_lmdb", source, tmp_path / "set")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "skipped ant/\\xe4.txt: " in output


def test_the_help_is_80_columns_wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output, _ = call("make_lmdb", "--help")
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path, files, number):
    source = make_folder(tmp_path / "source", {f"a/{i}.png": image_file(image(i, 400, 400)) for i in range(9)})
    for i in range(9, 1500):
        os.link(source / f"a/{i % 9}.png", source / f"a/{i}.png")
    process = start("make_lmdb", source, tmp_path / "set", "--resize", 800)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".set.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (128 + number, "")
    assert errors.endswith("make_lmdb: ended by a signal\n")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_imagenet_samples(tmp_path):
    (summary,) = convert(
        shared("data/imagenet_samples.tar"), tmp_path / "set", labels=Labels(list_file="labels.txt"),
        storage=Storage(resize=64), limit=40)  # fmt: skip
    assert (summary.records, summary.classes, summary.skipped) == (40, 40, [])
    assert all(min(picture.size) == 64 for picture, _ in LmdbDataset(tmp_path / "set", classes=1000))
