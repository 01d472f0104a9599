"""Labels: by class folders, alike in several data sets, and by list files; the names of classes."""

import os

import pytest
from commands import call
from images import CLASSES, class_files, labels_of, make_folder, make_tar

from nptrain.data.classes import first_difference, read_classes, write_classes
from nptrain.data.convert import convert
from nptrain.data.labels import Labels
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError


@pytest.fixture
def files():
    return class_files()


def names(path):
    return (path / "classes.txt").read_text()


def test_one_split(tmp_path, files):
    both = {f"top/{split}/{name}": content for split in ("train", "Val") for name, content in files.items()}
    for source in (make_folder(tmp_path / "source", both), make_tar(tmp_path / "a.tar", both)):
        with pytest.raises(InputError, match=rf"{source.name}: found no folder test \(--split\): it has Val, train"):
            convert(source, tmp_path / "set", labels=Labels(split="test"))
        convert(source, tmp_path / f"{source.name}-set", labels=Labels(split="val"))
        expected = {f"top/Val/{name}": label for name, label in CLASSES.items()}
        assert labels_of(tmp_path / f"{source.name}-set") == expected


@pytest.mark.parametrize("kind", [make_folder, make_tar])
def test_all_splits_mean_the_same_classes(tmp_path, files, kind):
    """Although val has no ant, so that its class folders alone would be numbered anew."""
    held_out = {f"VALID/{name}": content for name, content in files.items() if "ant" not in name}
    source = kind(tmp_path / "source", {f"Train/{name}": content for name, content in files.items()} | held_out)
    output, _ = call("make_lmdb", source, tmp_path / "sets")
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["train", "valid"]
    assert names(tmp_path / "sets" / "train") == names(tmp_path / "sets" / "valid") == "ant\nbee\ncow\n"
    assert labels_of(tmp_path / "sets" / "train") == {f"Train/{name}": label for name, label in CLASSES.items()}
    assert labels_of(tmp_path / "sets" / "valid") == {name: CLASSES[name[6:]] for name in held_out}
    assert f"{tmp_path / 'sets' / 'valid'}: classes without images: 1 (ant)\n" in output
    assert f"{tmp_path / 'sets' / 'train'}: 12 records, 3 classes" in output


def test_splits_that_cannot_be_made(tmp_path, files):
    parts = {f"{split}/{name}": content for split in ("train", "val") for name, content in files.items()}
    for more, message in (
        ({"val/eel/1.png": b"", "val/fox/1.png": b""},
         "source/val: found 2 class folders that .*source/train/ does not have: eel, fox"),
        ({"other/1.png": b""}, "found the splits train, val among the folders other, train, val: choose one"),
        ({"Val/ant/1.png": b""}, "found the splits Val, train, val among the folders .*: choose one with --split"),
        ({"test/1.png": b""}, "found no class folders in test/: --split converts another folder alone"),
    ):  # fmt: skip
        source = make_folder(tmp_path / message[:12] / str(len(more)) / next(iter(more))[:3] / "source", parts | more)
        with pytest.raises(InputError, match=message):
            convert(source, tmp_path / "sets")
        assert not (tmp_path / "sets").exists()
    bad = {name: b"" if name.startswith("val") else content for name, content in parts.items()}
    with pytest.raises(InputError, match="bad/val: found no image in 12 files"):
        convert(make_folder(tmp_path / "bad", bad), tmp_path / "sets")
    assert not (tmp_path / "sets").exists(), "train was made, and is removed"
    source = make_folder(tmp_path / "good", parts)
    make_folder(tmp_path / "sets", {"val/x": b""})
    with pytest.raises(InputError, match="sets/val: exists already"):
        convert(source, tmp_path / "sets")
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["val"], "seen before train is made"
    make_folder(tmp_path / "lmdb", {"data.mdb": b""})
    with pytest.raises(InputError, match=r"lmdb/data.mdb: exists already"):
        convert(source, tmp_path / "lmdb")


def test_classes_of(tmp_path, files):
    convert(make_folder(tmp_path / "all", files), tmp_path / "train")
    part = make_folder(tmp_path / "part", {name: files[name] for name in ("cow/1.png", "bee/1.png")})
    for index, data in enumerate((tmp_path / "train", tmp_path / "train" / "classes.txt",
                                  tmp_path / "train" / "data.mdb")):  # fmt: skip
        out = tmp_path / f"val{index}"
        output, _ = call("make_lmdb", part, out, "--classes-of", data)
        assert labels_of(out) == {"bee/1.png": 1, "cow/1.png": 2}
        assert names(out) == "ant\nbee\ncow\n"
        assert f"{out}: classes without images: 1 (ant)\n" in output
    more = make_folder(tmp_path / "more", {f"{kind}/1.png": b"" for kind in ("ant", *"zyxwvu")})
    (tmp_path / "twice.txt").write_text("ant\nbee\nant\n")
    for source, data, message in (
        (more, "train", r"more: found 6 class folders that --classes-of .*train does not have: u, v, w, x, y, \.\.\.$"),
        (part, "twice.txt", "twice.txt: found a name twice: ant"),
        (part, "part", "--classes-of .*part: found no classes.txt, which names its classes"),
        (part, "none", "none: cannot be read: No such file"),
    ):
        with pytest.raises(InputError, match=message):
            convert(source, tmp_path / "set", labels=Labels(classes_of=str(tmp_path / data)))


def test_odd_names_of_classes(tmp_path, files):
    """Line breaks and bytes that are no text are escaped, the same in both data sets."""
    odd = {f"{os.fsdecode(name)}/1.png": files["ant/0.png"] for name in (b"a\nb", b"b\xe4r", "ä".encode(), b" c ")}
    source = make_folder(tmp_path / "source", odd)
    convert(source, tmp_path / "set")
    assert read_classes(tmp_path / "set") == [" c ", "a\\nb", "b\\udce4r", "ä"]
    convert(make_tar(tmp_path / "a.tar", odd), tmp_path / "again", labels=Labels(classes_of=str(tmp_path / "set")))
    assert labels_of(tmp_path / "again") == labels_of(tmp_path / "set")
    (source / "a\\nb").mkdir()
    with pytest.raises(InputError, match=r"found class folders of the same name: a\\nb"):
        convert(source, tmp_path / "third")


def test_reading_names(tmp_path):
    assert read_classes(tmp_path) is None
    write_classes(tmp_path, ["ant", "büffel", "a\nb"])
    assert read_classes(tmp_path) == read_classes(tmp_path / "data.mdb") == ["ant", "büffel", "a\\nb"]
    for text in (b"\xef\xbb\xbfant\r\nbee\r\n", b"ant\nbee", b"ant\rbee\r\n\n"):
        (tmp_path / "classes.txt").write_bytes(text)
        assert read_classes(tmp_path) == ["ant", "bee"]
    for text, message in (
        (b"", "is empty, expected one class name a line"),
        (b"ant\n\nbee\n", "line 2: is empty, expected the name of class 1"),
        (b"ant\nb\xe4r\n", r"line 2: found b\\udce4r, which is not UTF-8"),
        ("ant\nbee\n".encode("utf-16"), "found UTF-16 or binary data"),
    ):
        (tmp_path / "classes.txt").write_bytes(text)
        with pytest.raises(InputError, match=f"classes.txt: {message}"):
            read_classes(tmp_path)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "classes.txt")
    with pytest.raises(InputError, match="not a regular file"):
        read_classes(tmp_path / "pipe")


def test_first_difference():
    assert first_difference(["a", "b"], ["a", "b"]) is None
    assert first_difference(["a", "b"], ["a", "c"]) == (1, "b", "c")
    assert first_difference(["a", "b"], ["a"]) == (1, "b", None)
    assert first_difference([], ["a"]) == (0, None, "a")


def test_list_on_disk(tmp_path, files):
    source = make_folder(tmp_path / "source", files | {"b c.png": files["ant/0.png"]})
    lines = tmp_path / "list.txt"
    lines.write_text("cow/1.png 7\n\n./ant/0.png\t3\nb c.png 999\ncow/1.png 0008\n")
    output, _ = call("make_lmdb", source, tmp_path / "set", "--list", lines, "--no-shuffle")
    assert f"{tmp_path / 'set'}: its classes have no names: --classes FILE gives them\n" in output
    assert f"{tmp_path / 'set'}: 4 records, 4 classes, " in output
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
            convert(source, out, labels=Labels(list_file=list_file))
            assert labels_of(out) == {"top/ant/1.png": 5, "top/cow/0.png": 4}


def test_names_for_a_list(tmp_path, files):
    source = make_folder(tmp_path / "source", files | {"list.txt": b"ant/1.png 2\ncow/0.png 0\n"})
    (tmp_path / "names.txt").write_text("crane\nbee\ncrane\n")
    labels = Labels(list_file="list.txt", classes=str(tmp_path / "names.txt"))
    (summary,) = convert(source, tmp_path / "set", labels=labels)
    assert (summary.classes, names(tmp_path / "set")) == (3, "crane\nbee\ncrane\n"), "two of ImageNet's have one name"
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    with pytest.raises(InputError, match=r"--list list.txt: ant/1.png: found label 2, expected 0..1, the classes of"):
        convert(source, tmp_path / "other", labels=labels)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfant/0.png 3\r\nbee/0.png 4\r\n", b"ant/0.png 3\rbee/0.png 4"])
def test_lists_of_other_systems(tmp_path, files, text):
    source = make_folder(tmp_path / "source", files | {"list.txt": text})
    convert(source, tmp_path / "set", labels=Labels(list_file="list.txt"))
    assert labels_of(tmp_path / "set") == {"ant/0.png": 3, "bee/0.png": 4}


def test_a_list_of_names_that_are_not_utf_8(tmp_path, files):
    odd = {os.fsdecode(b"b\xe4r.png"): files["ant/0.png"], "list.txt": b"b\xe4r.png 3\n"}
    for source in (make_folder(tmp_path / "source", odd), make_tar(tmp_path / "a.tar", odd)):
        out = tmp_path / f"set-{source.name}"
        convert(source, out, labels=Labels(list_file="list.txt"))
        assert LmdbDataset(out).key(0) == b"00000000_b\xe4r.png"


def test_list_errors(tmp_path, files):
    source = make_folder(tmp_path / "source", files)
    lines = tmp_path / "list.txt"
    missing = "".join(f"ant/{name}.png 1\n" for name in "tuvwxyz")
    for text, message in (
        ("ant/0.png 1\nant/0.png one\n", "line 2: found 'ant/0.png one', expected: path label"),
        ("ant/0.png\n", "line 1: found 'ant/0.png', expected: path label"),
        ("ant/0.png -1\n", "line 1: found 'ant/0.png -1', expected: path label"),
        ("ant/0.png 99999999999\n", "line 1: found 'ant/0.png 99999999999', expected: path label"),
        (f"ant/0.png {'9' * 5000}\n", "line 1: found .* expected: path label"),
        ("ant/0.png 1\nant/x.png 1\n", r"found 1 of its 2 files not in .*source: ant/x.png \(line 2\)$"),
        ("ant/0.png 1\n" + missing, r"found 7 of its 8 files not in .*: ant/t.png \(line 2\), .*x.png.*\.\.\.$"),
    ):  # fmt: skip
        lines.write_text(text)
        with pytest.raises(InputError, match=f"list.txt: {message}"):
            convert(source, tmp_path / "set", labels=Labels(list_file=lines))
    lines.write_text("ant/0.png 1\n", encoding="utf-16")
    os.mkfifo(tmp_path / "pipe")
    twice = make_tar(tmp_path / "a.tar", {"a/labels.txt": b"", "b/labels.txt": b""})
    for where, labels, message in (
        (
            source,
            Labels(list_file=lines),
            "list.txt: found UTF-16 or binary data, expected a text: save",
        ),
        (source, Labels(list_file=tmp_path / "pipe"), "pipe: cannot be read: not a regular file"),
        (source, Labels(list_file="none.txt"), r"--list none.txt: found neither here nor in .*source"),
        (twice, Labels(list_file="labels.txt"), r"found more than once in .*a.tar: a/labels.txt, b/labels.txt"),
        (source, Labels(list_file=lines, split="train"), "--split: cannot be used with --list"),
        (source, Labels(list_file=lines, classes_of="x"), "--classes-of: cannot be used with --list"),
        (source, Labels(classes="x"), "--classes: expected only with --list"),
    ):
        with pytest.raises(InputError, match=message):
            convert(where, tmp_path / "set", labels=labels)
    assert not (tmp_path / "set").exists()


def test_the_digits_have_names(tmp_path):
    call("make_digits", tmp_path / "digits")
    for part in ("train", "val"):
        assert read_classes(tmp_path / "digits" / part) == list("0123456789")
