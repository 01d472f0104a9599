"""Folders and archives as they are found: links, pipes, what tools leave behind, what cannot be read or written."""

import os
import resource
import socket
import tarfile
from contextlib import contextmanager

import pytest
from images import CLASSES, class_files, labels_of, make_folder, make_tar, stored

from nptrain.data.convert import convert
from nptrain.data.sources import Folder
from nptrain.errors import InputError

LEFT = [
    "__MACOSX/ant/._0.png", "ant/@eaDir/0.png/thumb.png", "bee/@eaDir/1.png", ".ipynb_checkpoints/0.png",
    "lost+found/a.png", "$RECYCLE.BIN/x/a.png", "System Volume Information/a.png", ".git/a/b", "ant/Thumbs.db",
    "cow/desktop.ini", ".DS_Store", "ant/._0.png", "ant/._1.png",
]  # fmt: skip
COUNTED = {"__MACOSX": 1, "@eaDir": 2, ".ipynb_checkpoints": 1, "lost+found": 1, "$RECYCLE.BIN": 1,
           "System Volume Information": 1, ".git": 1, "Thumbs.db": 1, "desktop.ini": 1, ".DS_Store": 1,
           "._*": 2}  # fmt: skip


@pytest.fixture
def files():
    return class_files()


@pytest.mark.parametrize("kind", [make_folder, make_tar])
def test_what_tools_leave_behind_is_left_out(tmp_path, files, kind):
    (summary,) = convert(kind(tmp_path / "source", files | dict.fromkeys(LEFT, b"x")), tmp_path / "set")
    assert labels_of(tmp_path / "set") == CLASSES
    assert (summary.skipped, summary.left_out) == ([], COUNTED)
    assert (tmp_path / "set" / "classes.txt").read_text() == "ant\nbee\ncow\n"


def test_links(tmp_path, files):
    """To a folder beside and to a file: followed. To a folder above, to nothing, to themselves: skipped and listed."""
    source = make_folder(tmp_path / "source", files)
    make_folder(tmp_path / "elsewhere", {"e.png": files["ant/0.png"]})
    for name, target in (("ant/up", ".."), ("bee/deep", "../bee"), ("cow/none.png", "nothing"), ("cow/me", "me"),
                         ("ant/f.png", "../cow/0.png"), ("bee/far", tmp_path / "elsewhere")):  # fmt: skip
        (source / name).symlink_to(target)
    (summary,) = convert(source, tmp_path / "set")
    assert labels_of(tmp_path / "set") == CLASSES | {"ant/f.png": 0, "bee/far/e.png": 1}
    skipped = dict(summary.skipped)
    assert sorted(skipped) == ["ant/up", "bee/deep", "cow/me", "cow/none.png"]
    assert skipped["ant/up"] == skipped["bee/deep"] == "a link to a folder that it is in"


def test_links_that_cross(tmp_path, files):
    """ant has bee and bee has ant: the walk ends."""
    source = make_folder(tmp_path / "source", files)
    (source / "ant" / "b").symlink_to("../bee")
    (source / "bee" / "a").symlink_to("../ant")
    (summary,) = convert(source, tmp_path / "set")
    assert summary.records == 12 + 4 + 4
    assert {name for name, _ in summary.skipped} == {"ant/b/a", "bee/a/b"}


def test_special_files_are_never_opened(tmp_path, files, monkeypatch):
    source = make_folder(tmp_path / "source", files)
    os.mkfifo(source / "ant" / "pipe.jpg")
    monkeypatch.chdir(source)  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("bee/socket.jpg")
        (summary,) = convert(source, tmp_path / "set")
    reason = "not a file: a link to nothing, or a pipe, a socket or a device"
    assert sorted(summary.skipped) == [("ant/pipe.jpg", reason), ("bee/socket.jpg", reason)]


def test_a_folder_that_cannot_be_read(tmp_path, files, monkeypatch):
    def scandir(path, scandir=os.scandir):
        if os.path.basename(os.path.normpath(path)) == "bee":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    source = make_folder(tmp_path / "source", files)
    monkeypatch.setattr(os, "scandir", scandir)  # root may read any folder
    with pytest.raises(InputError, match="source/bee: cannot be read: Permission denied"):
        convert(source, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_deep_folder(tmp_path, monkeypatch):
    """Deeper than Python's stack."""
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("a")
        os.chdir("a")
    try:
        assert len(Folder(tmp_path).names()) == 1200
    finally:
        for _ in range(1200):  # pytest's own cleaning would not bear it
            os.chdir("..")
            os.rmdir("a")


def test_links_and_other_members_of_archives(tmp_path, files):
    members = {"cow/hard.png": (tarfile.LNKTYPE, "./bee/0.png"), "cow/soft.png": (tarfile.SYMTYPE, "../bee/1.png"),
               "cow/soft2.png": (tarfile.SYMTYPE, "soft.png"), "cow/pipe.png": (tarfile.FIFOTYPE, ""),
               "cow/none.png": (tarfile.SYMTYPE, "nothing"), "cow/me.png": (tarfile.SYMTYPE, "me.png"),
               "cow/folder": (tarfile.DIRTYPE, ""), "cow/out.png": (tarfile.SYMTYPE, "../../../etc/hosts")}  # fmt: skip
    (summary,) = convert(make_tar(tmp_path / "a.tar", files, "./", **members), tmp_path / "set")
    found = stored(tmp_path / "set")
    assert {name: label for name, (label, _) in found.items()} == CLASSES | {
        "cow/hard.png": 2, "cow/soft.png": 2, "cow/soft2.png": 2,
    }  # fmt: skip
    assert found["cow/hard.png"][1].tobytes() == found["bee/0.png"][1].tobytes()
    assert found["cow/soft2.png"][1].tobytes() == found["bee/1.png"][1].tobytes()
    reason = "not a file, nor a link to a file of the archive"
    assert sorted(summary.skipped) == [(f"cow/{name}.png", reason) for name in ("me", "none", "out", "pipe")]


def nested(tmp_path, files, **options):
    """ImageNet's form: an archive of one archive for each class, whose files are at its top."""
    inner = {}
    for kind in ("ant", "bee", "cow"):
        own = {name.partition("/")[2]: content for name, content in files.items() if name.startswith(kind)}
        inner[f"{kind}.tar"] = make_tar(tmp_path / f"{kind}.tar", own).read_bytes()
    return make_tar(tmp_path / "all.tar", inner, **options)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_of_archives(tmp_path, files, mode):
    convert(nested(tmp_path, files, mode=mode), tmp_path / "set", shuffle=False)
    assert labels_of(tmp_path / "set") == CLASSES
    convert(make_folder(tmp_path / "source", files), tmp_path / "expected", shuffle=False)
    expected = (tmp_path / "expected" / "data.mdb").read_bytes()
    assert (tmp_path / "set" / "data.mdb").read_bytes() == expected


def test_archives_that_are_not_unpacked(tmp_path, files):
    packed = {"ant.tar.gz": b"x", "bee.tar.gz": b"x"}
    for source in (make_folder(tmp_path / "source", packed), make_tar(tmp_path / "a.tar", packed)):
        with pytest.raises(InputError, match="found no class folders in it: unpack its archives first, one folder for"):
            convert(source, tmp_path / "set")
    with pytest.raises(InputError, match=r"a.tar: found no tar archive \(damaged at byte 512\)"):
        convert(make_tar(tmp_path / "a.tar", {"ant.tar": b"no archive" * 100}), tmp_path / "set")


def test_a_damaged_header_is_not_the_end(tmp_path, files):
    """tarfile ends there without an error, and the rest would be missing."""
    archive = make_tar(tmp_path / "a.tar", files)
    with tarfile.open(archive) as tar:
        place = tar.getmember("bee/1.png").offset
    content = bytearray(archive.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    archive.write_bytes(content)
    with pytest.raises(InputError, match=rf"a.tar: found no tar archive \(damaged at byte {place}\)"):
        convert(archive, tmp_path / "set")


@pytest.mark.parametrize("size", [-1, -1024, 2**80])
def test_a_member_of_no_possible_size(tmp_path, files, size):
    """With a negative one, tarfile goes round in circles."""
    archive = make_tar(tmp_path / "a.tar", files)
    with tarfile.open(archive) as tar:
        member = tar.getmember("bee/1.png")
    content = bytearray(archive.read_bytes())
    member.size = size
    content[member.offset : member.offset + 512] = member.tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"a.tar: (found no tar archive \(damaged at byte \d+\)|cannot be read: .)"):
        convert(archive, tmp_path / "set")


@pytest.mark.parametrize("kind", [make_folder, make_tar])
def test_a_file_too_large_for_an_image(tmp_path, files, monkeypatch, kind):
    monkeypatch.setattr("nptrain.data.sources.MAX_FILE", 5000)
    (summary,) = convert(kind(tmp_path / "source", files | {"ant/large.png": bytes(5001)}), tmp_path / "set")
    assert summary.skipped == [("ant/large.png", "found 5001 bytes, expected at most 5000")]


@contextmanager
def small_disk(size):
    """Files may have `size` bytes: where the disk is full, system and LMDB fail in the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room(tmp_path, files):
    source = make_folder(tmp_path / "source", files | {"ant/a.png": files["ant/0.png"] + os.urandom(200_000)})
    packed = make_tar(tmp_path / "a.tar.gz", {"ant/a.png": bytes(300_000)}, mode="w:gz")
    before = sorted(tmp_path.iterdir())
    with small_disk(100_000):
        with pytest.raises(InputError, match=r"set: cannot be written: .* \(a full disk\?\): make room, or"):
            convert(source, tmp_path / "set")
        with pytest.raises(InputError, match=f"^{tmp_path}: cannot be written: File too large: make room, or"):
            convert(packed, tmp_path / "set")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written(tmp_path, files, monkeypatch):
    def rename(*_):
        raise PermissionError(13, "Permission denied")

    source = make_folder(tmp_path / "source", files)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(InputError, match="set: cannot be written: Permission denied: write to another folder"):
        convert(source, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
