"""A run's folder: one run at a time, its flags and its data when it goes on, and nothing of a run that never began."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from commands import PROJECT, call
from images import make_dataset
from short_runs import arguments, metrics

from bin.common.run_data import data_of
from nptrain.errors import InputError
from nptrain.run import versions
from nptrain.run.lock import locked
from nptrain.run.log import Log

BRIEF = ["--phase", "1", "--workers", "1", "--kernels", "numpy", "--set", "1.snapshot=1"]
HOLD = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from nptrain.run.lock import locked
with locked(sys.argv[1], print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """A run of one iteration."""
    folder = tmp_path_factory.mktemp("one") / "run"
    call("train", *arguments(data, folder, *BRIEF, "--iterations", "1"))
    return folder


@pytest.fixture(scope="module")
def untouched(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untouched") / "run"
    call("train", *arguments(data, folder, *BRIEF, "--iterations", "1"))
    return folder


@pytest.fixture
def copied(untouched, tmp_path):
    """A run of one iteration, for this test alone."""
    return shutil.copytree(untouched, tmp_path / "copied")


def test_a_folder_is_of_one_process(data, tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=-1, stdout=-1, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        _, errors = call("train", *arguments(data, folder, *BRIEF), status=2)
        assert errors.startswith(
            f"train: --run-dir: {folder} is in use by process {holder.pid} on {os.uname().nodename} "
        )
        assert errors.count("\n") == 1
        holder.kill()
    assert (folder / "lock").exists()
    with locked(folder, pytest.fail):  # of a process that is dead
        assert f"process {os.getpid()} on " in (folder / "lock").read_text()
    assert not folder.exists()


def test_without_locks_a_line_says_so(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    said = []
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with locked(tmp_path / "run", said.append):
        (tmp_path / "run" / "more").touch()
    assert said[0].startswith(f"{tmp_path}/run/lock: this file system has no locks (No locks available): ")
    assert os.listdir(tmp_path / "run") == ["more"]


def test_a_run_goes_on_by_its_folder_alone(one):
    output, _ = call("train", "--resume", one, "--iterations", "2")
    assert "resumes at phase 1, iteration 1\n" in output
    assert [entry["iteration"] for entry in metrics(one) if "loss" in entry] == [0, 1]
    arguments = json.loads((one / "run.json").read_text())["arguments"]
    assert (arguments["iterations"], arguments["kernels"], arguments["seed"]) == (2, "numpy", 3)
    assert not list(one.glob("lock"))


def test_flags_that_are_given_are_checked(one, tmp_path):
    for words, line in (
        (["--resume", one, "--seed", "4"], f"--seed: found 4, expected 3, as in the run in {one}"),
        (["--resume", one, "--set", "momentum=0.8"], f"1.momentum: found 0.8, expected 0.9, as in the run in {one}"),
        (["--resume", one, "--run-dir", "x"], "--run-dir: found together with --resume RUN, expected one of them"),
        (["--resume", tmp_path / "x"], f"--resume: {tmp_path}/x/run.json does not exist, expected a run to continue"),
    ):
        assert call("train", *words, status=2) == ("", f"train: {line}\n")
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_with_its_own_data(data, one, tmp_path):
    make_dataset(tmp_path / "less", 40, width=36, height=34)
    make_dataset(tmp_path / "other", 41, width=40, height=34)
    for flag, name, line in (
        ("--train-data", "less", "--train-data: the number of records: found 40, expected 41, as in the run in"),
        ("--train-data", "other", "--train-data: the first image: found 40x34 of class"),
        ("--val-data", "less", "--val-data: the number of records: found 40, expected 7, as in the run in"),
    ):
        output, errors = call("train", "--resume", one, flag, tmp_path / name, status=2)
        assert (output, errors.count("\n")) == ("", 1)
        assert errors.startswith(f"train: {line}")
    moved = data.rename(data.with_name("moved"))  # the same data, somewhere else
    try:
        call("train", "--resume", one, "--train-data", moved / "train", "--val-data", moved / "val")
    finally:
        moved.rename(data)


def test_a_run_goes_on_from_another_directory(data, tmp_path):
    short = arguments(Path("data"), "run", *BRIEF)
    begun, other = tmp_path / "begun", tmp_path / "other"
    begun.mkdir()
    other.mkdir()
    (begun / "data").symlink_to(data)
    call("train", *short, "--iterations", "1", cwd=begun)
    call("train", "--resume", begun / "run", "--iterations", "2", cwd=other)
    call("train", "--resume", "../begun/run", "--iterations", "3", cwd=other)
    assert [entry["iteration"] for entry in metrics(begun / "run") if "loss" in entry] == [0, 1, 2]
    with chdir(tmp_path):
        assert data_of(begun / "run", "train_data").path == begun / "data/train"
    (begun / "data").unlink()
    _, errors = call("train", "--resume", begun / "run", "--iterations", "4", cwd=other, status=2)
    assert errors.startswith(f"train: {begun}/data/train: ")
    assert errors.count("\n") == 1


def test_a_run_that_never_began_leaves_nothing(data, tmp_path):
    short, folder = arguments(data, tmp_path / "run", *BRIEF, "--iterations", "1"), tmp_path / "run"
    call("train", *short, "--weights", tmp_path / "none", status=2)
    assert not folder.exists()
    _, errors = call("train", *short, "--set", "pad=0", "--crop-size", "64", status=2)
    assert "36x34" in errors
    assert not folder.exists()


def test_a_start_that_was_killed_may_be_made_again(data, one, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text((one / "run.json").read_text())
    (folder / "metrics.jsonl").touch()
    short = arguments(data, folder, *BRIEF, "--iterations", "1")
    call("train", *short)
    assert "contains a run already" in call("train", *short, status=2)[1]
    assert len(metrics(folder)) == 2  # an iteration and a test


def remove(folder):
    while folder.exists():  # a checkpoint may be written meanwhile
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("happens", "what"),
    [
        ("remove(folder)", "run"),
        ("folder.rename(folder.with_name('elsewhere'))", "run"),
        ("(folder / 'metrics.jsonl').unlink()", "run/metrics.jsonl"),
        ("folder.rename(folder.with_name('elsewhere')), shutil.copytree(folder.with_name('elsewhere'), folder)",
         "run/metrics.jsonl"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [1, 3])
def test_a_folder_that_is_gone_ends_the_run(data, tmp_path, monkeypatch, happens, what, at):
    """After an iteration, or after the last line: a run never ends with "done" without what it names."""
    folder, ending = tmp_path / "run", Log.end if at == 3 else Log.iteration
    place, name = ("end", at) if at == 3 else ("iteration", at)

    def gone(self, iteration, *args, **named):
        result = ending(self, iteration, *args, **named)
        if iteration == name:
            eval(happens, {"folder": folder, "shutil": shutil, "remove": remove})
        return result

    monkeypatch.setattr(Log, place, gone)
    output, errors = call("train", *arguments(data, folder, *BRIEF, "--iterations", "3"), status=2)
    assert errors == (
        f"train: {tmp_path}/{what}: removed, renamed or replaced while the run wrote to it; go on with --resume, and "
        "the folder where it is now\n"
    )
    assert "done" not in output
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"run", "elsewhere"}
    assert ("run" in left) == ("metrics" in what)


def test_a_run_whose_metrics_are_gone_goes_on(data, tmp_path, monkeypatch):
    """Also before its first checkpoint: nothing of it may be taken for a run that was never begun."""
    folder, iteration = tmp_path / "run", Log.iteration

    def gone(self, at, *args, **named):
        if at == 1:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        return iteration(self, at, *args, **named)

    for snapshot in (1, 9):
        remove(folder)
        words = [*BRIEF, "--set", f"1.snapshot={snapshot}", "--iterations", "3"]
        with monkeypatch.context() as patch:
            patch.setattr(Log, "iteration", gone)
            call("train", *arguments(data, folder, *words), status=2)
        call("train", "--resume", folder)
        assert [entry["iteration"] for entry in metrics(folder) if "loss" in entry] == [*range(snapshot % 9, 3)]


def test_a_folder_that_was_renamed_goes_on(data, tmp_path, monkeypatch):
    folder, iteration = tmp_path / "run", Log.iteration

    def renamed(self, at, *args, **named):
        if at == 1 and folder.exists():
            folder.rename(tmp_path / "elsewhere")
        return iteration(self, at, *args, **named)

    monkeypatch.setattr(Log, "iteration", renamed)
    call("train", *arguments(data, folder, *BRIEF, "--iterations", "3"), status=2)
    call("train", "--resume", tmp_path / "elsewhere")
    assert [entry["iteration"] for entry in metrics(tmp_path / "elsewhere") if "loss" in entry] == [0, 1, 2]


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
    now = versions.versions("Some MPI", "avx2")
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
