"""Where compiled kernels go if the usual folder cannot be written: to a temporary one, which a line names."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest
from commands import run

from bin import launch
from kernels import cache


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders for a user's cache, and for temporary files, which no other process has."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache, "SHARED_MEMORY", "/dev/null/x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("NPTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache", tmp_path / f"nptrain-{os.getuid()}"


def test_the_usual_folder_is_made(places):
    assert cache.usable_folder() == (cache.cache_folder(), None)
    assert cache.cache_folder().parent == places[0]
    assert list(cache.cache_folder().iterdir()) == []
    assert not places[1].exists()


def test_a_folder_that_cannot_be_made(places):
    places[0].touch()
    folder, note = cache.usable_folder()
    assert folder.parent == places[1]
    why = f"{cache.cache_folder()}: Not a directory"
    assert note == f"compiled kernels go to {folder}: {why} (NPTRAIN_CACHE names another folder)"
    assert places[1].stat().st_mode & 0o777 == 0o700


def test_a_full_disk_s_kernels_are_taken_along(places, monkeypatch):
    def free(folder):
        return SimpleNamespace(f_frsize=1 << 20, f_bavail=5 if places[0] in Path(folder).parents else 50)

    cache.cache_folder().mkdir(parents=True)
    (cache.cache_folder() / "kernel.nbi").write_text("compiled")
    monkeypatch.setattr(os, "statvfs", free)
    (places[1] / cache.cache_folder().name).mkdir(parents=True)  # of a start that compiled nothing
    places[1].chmod(0o700)
    folder, note = cache.usable_folder()
    assert (folder.parent, (folder / "kernel.nbi").read_text()) == (places[1], "compiled")
    assert "less than 32 MiB are free" in note
    (folder / "kernel.nbi").write_text("more")  # the copy is made once
    assert (cache.usable_folder()[0] / "kernel.nbi").read_text() == "more"


def test_a_user_without_a_home(places, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("NPTRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    folder, note = cache.usable_folder()
    assert folder.parent == places[1]
    assert ": no home folder: HOME is not set " in note


def test_a_temporary_folder_of_somebody_else_is_not_used(places, tmp_path):
    places[0].touch()
    (tmp_path / "others").mkdir()
    places[1].symlink_to(tmp_path / "others")
    folder, _ = cache.usable_folder()
    assert folder.parent.name.startswith("nptrain-")
    assert folder.parent != places[1]
    assert list((tmp_path / "others").iterdir()) == []


def test_nowhere_to_write_is_one_line(places, monkeypatch):
    places[0].touch()
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/x")
    with pytest.raises(cache.NoCacheError) as caught:
        cache.usable_folder()
    line, status, _ = launch.ending(caught.value)
    assert line.startswith(f"no folder for compiled kernels: {cache.cache_folder()}: Not a directory; expected one in ")
    assert status == 1


def test_commands_start_without_a_home_and_in_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/x")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("NPTRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert run("train", "--list-recipes")[1] == ""
    _, errors = run("plan", "--nodes", "4", "--out", tmp_path / "plan.png")
    assert "Traceback" not in errors
    assert (tmp_path / "plan.png").exists()
