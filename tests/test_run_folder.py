"""A run's folder: one run at a time, its flags and its data when it goes on, and nothing of a run that never began."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from contextlib import chdir
from pathlib import Path

import pytest
from commands import PROJECT, call
from images import make_dataset
from short_runs import arguments, metrics

from bin.common import ending
from bin.common.run_data import data_of
from mpi.agree import AgreedError
from nptrain.run.lock import locked
from nptrain.run.run_folder import RunFolder
from nptrain.world import Solo

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


def test_under_the_supervisor_a_run_waits_for_the_lock(tmp_path, monkeypatch, capsys):
    folder, limits = tmp_path / "run", {"SAY": 0.0, "TAKE_OVER": 0.1}
    for name, value in limits.items():
        monkeypatch.setattr(ending, name, value)
    monkeypatch.setenv(ending.SUPERVISED, "1")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdin=-1, stdout=-1, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AgreedError, match="is in use by process"), ending.holding(RunFolder(folder), True, Solo()):
            pass
        monkeypatch.setattr(ending, "TAKE_OVER", 120.0)
        threading.Timer(0.2, holder.kill).start()
        with ending.holding(RunFolder(folder), True, Solo()):
            assert holder.wait() < 0
    waits = capsys.readouterr().err.splitlines()
    assert waits[-1].startswith(f"waits for 120 s at most: --run-dir: {folder} is in use by process {holder.pid} on ")
    assert len(waits) == 2


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
