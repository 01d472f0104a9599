"""A run that goes on with other versions says so; it is refused where its bits would differ. Damaged descriptions."""

import json
import os
import shutil

import pytest
from commands import call
from short_runs import arguments

from nptrain.errors import InputError
from nptrain.run import versions

BRIEF = ["--phase", "1", "--workers", "1", "--kernels", "numpy", "--set", "1.snapshot=1"]


@pytest.fixture(scope="module")
def untouched(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untouched") / "run"
    call("train", *arguments(data, folder, *BRIEF, "--iterations", "1"))
    return folder


@pytest.fixture
def copied(untouched, tmp_path):
    """A run of one iteration, for this test alone."""
    return shutil.copytree(untouched, tmp_path / "copied")


def test_other_versions_are_said_and_refused_where_the_bits_would_differ(copied, monkeypatch):
    words = ["--resume", copied, "--iterations", "2"]
    now = versions.package_versions()
    monkeypatch.setattr(versions, "package_versions", lambda: {**now, "lmdb": "7.1"})
    output, _ = call("train", *words)
    assert f"lmdb: 7.1 from here on; the run had {now['lmdb']}\n" in output
    monkeypatch.setattr(versions, "package_versions", lambda: {**now, "numpy": "7.1", "numba": "7.2"})
    before = (copied / "run.json").read_bytes()
    _, errors = call("train", *words, status=2)
    assert errors == (
        f"train: --resume: the run in {copied} would go on with other bits: numpy: found 7.1, expected {now['numpy']}; "
        f"numba: found 7.2, expected {now['numba']}; --allow-other-bits goes on all the same\n"
    )
    assert (copied / "run.json").read_bytes() == before
    monkeypatch.setattr(versions, "_digest", lambda: "f" * 12)
    _, errors = call("train", *words, status=2)
    assert "other bits: the sources of kernels and trainer: found ffffffffffff, expected " in errors
    output, _ = call("train", *words, "--allow-other-bits")
    assert f"numpy: 7.1 from here on; the run had {now['numpy']}\n" in output
    call("train", *words)  # it is made with these now
    monkeypatch.undo()
    assert "numpy: found " in call("train", *words, status=2)[1]  # the flag was for one start
    call("train", *words, "--allow-other-bits")


def test_what_is_not_known_is_not_compared():
    now = versions.versions("Some MPI", instructions="avx2")
    assert versions.expect_made_with({"numpy": None, "gone": "1", "mpi": "Some MPI"}, now, "run", False) == []
    with pytest.raises(InputError, match="the CPU's instruction set: found avx2, expected avx512f; --allow"):
        versions.expect_made_with({**now, "instructions": "avx512f"}, now, "run", False)
    was = {**now, "sources": "0" * 12, "commit": "a" * 40}
    with pytest.raises(InputError, match=r"found commit \w+ and the run's is aaaaaaaaaa\); --allow"):
        versions.expect_made_with(was, {**now, "commit": "b" * 40}, "run", False)


def test_data_of_other_sizes_are_other_data(copied):
    """The same keys, and the same first and last image."""
    before = json.loads((copied / "run.json").read_text())
    facts = before["data"]["train_data"]
    assert len(facts["list of sizes"]) == 12
    facts["list of sizes"] = "another"
    (copied / "run.json").write_text(json.dumps(before))
    _, errors = call("train", "--resume", copied, status=2)
    assert errors.startswith("train: --train-data: the list of sizes: found ")
    facts.pop("list of sizes")  # of an older version
    (copied / "run.json").write_text(json.dumps(before))
    call("train", "--resume", copied)


def test_a_run_json_that_cannot_be_read(copied):
    entry = json.loads((copied / "run.json").read_text())
    entry["recipe"]["new"] = 1
    (copied / "run.json").write_text(json.dumps(entry))
    _, errors = call("train", "--resume", copied, status=2)
    assert errors.startswith(f"train: {copied}/run.json: new: found an unknown field, expected one of ")
    (copied / "run.json").unlink()
    (copied / "run.json").mkdir()
    _, errors = call("train", "--resume", copied, status=2)
    assert errors == f"train: {copied}/run.json: cannot be read: not a regular file\n"


def test_what_is_no_file_or_too_large_is_not_read(copied):
    pipe = copied / "checkpoints" / "phase1_iter_99.json"
    os.mkfifo(pipe)
    output, _ = call("train", "--resume", copied)
    assert f"skipped a damaged checkpoint: {pipe}: cannot be read: not a regular file\n" in output
    pipe.unlink()
    pipe.touch()
    os.truncate(pipe, 1 << 40)
    output, _ = call("train", "--resume", copied)
    assert f"skipped a damaged checkpoint: {pipe}: found more than 1048576 bytes\n" in output
    (copied / "run.json").unlink()
    os.mkfifo(copied / "run.json")
    _, errors = call("train", "--resume", copied, status=2)
    assert errors == f"train: {copied}/run.json: cannot be read: not a regular file\n"
