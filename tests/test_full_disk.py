"""A disk that is full, or a folder that cannot be written: one line, no traceback, and nothing is left of the file."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from commands import PROJECT, call
from short_runs import arguments

from nptrain.run import checkpoint

BRIEF = ["--phase", "1", "--workers", "1", "--kernels", "numpy", "--iterations", "1"]


@contextmanager
def files_up_to(size):
    """Files that this process writes may have so many bytes, as on a disk that is nearly full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_that_does_not_fit(data, tmp_path):
    with files_up_to(2**20):
        _, errors = call("train", *arguments(data, tmp_path / "run", *BRIEF), status=2)
    path = tmp_path / "run" / "checkpoints" / "phase1_iter_1.caffemodel"
    line = "cannot be written: File too large: make room, or write to another disk"
    assert errors == f"train: {path}: {line}; there is no checkpoint\n"
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(("last", "status"), [(3, 0), (9, 2)])
def test_a_run_goes_on_without_a_checkpoint_but_not_without_three(data, tmp_path, monkeypatch, last, status):
    """Checkpoints of iterations 2 to `last` do not fit; one is due after each of five."""
    write = checkpoint.state_into

    def write_if_it_fits(file, state):
        if 2 <= state.iteration <= last:
            raise OSError(28, "No space left on device")
        write(file, state)

    monkeypatch.setattr(checkpoint, "state_into", write_if_it_fits)
    words = [*BRIEF[:-2], "--set", "1.snapshot=1", "--iterations", "5"]
    output, errors = call("train", *arguments(data, tmp_path / "run", *words), status=status)
    folder = tmp_path / "run" / "checkpoints"
    why = "cannot be written: No space left on device: make room, or write to another disk"
    for iteration in (2, 3):
        file = folder / f"phase1_iter_{iteration}.solverstate"
        assert f"no checkpoint, and the run goes on: {file}: {why}\n" in output
    saved = [1, 4, 5] if status == 0 else [1]
    assert sorted(path.stem for path in folder.glob("*.json")) == [f"phase1_iter_{iteration}" for iteration in saved]
    assert len(list(folder.glob("*.caffemodel"))) == len(saved)
    if status:
        first = folder / "phase1_iter_1.caffemodel"
        line = f"train: {folder}/phase1_iter_4.solverstate: {why}; so it was 3 times in a row"
        assert errors == f"{line}; the last checkpoint is {first}\n"


def test_what_writers_have_left_that_died_is_cleared(data, tmp_path):
    words = arguments(data, tmp_path / "run", *BRIEF, "--set", f"1.snapshot_prefix={tmp_path}/kept")
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    left = [folder / ".phase1_iter_4.caffemodel.77.tmp", folder.parent / ".run.json.8.tmp",
            tmp_path / ".kept_iter_4.caffemodel.9.tmp"]  # fmt: skip
    others = [folder / "notes.tmp", tmp_path / ".another_iter_4.caffemodel.9.tmp", tmp_path / ".kept_iter_4.mine.tmp"]
    for path in (*left, *others):
        path.touch()
    call("train", *words)
    assert [path.exists() for path in (*left, *others)] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", ["metrics.jsonl", "caffe.log"])
def test_a_log_on_a_full_disk(data, tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to("/dev/full")
    more = ["--caffe-log", folder / name] if name == "caffe.log" else []
    _, errors = call("train", *arguments(data, folder, *BRIEF, *more), status=2)
    assert errors.endswith(": No space left on device: make room, or write to another disk\n")
    assert str(folder / name) in errors
    assert errors.count("\n") == 1


def test_a_folder_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").touch()
    _, errors = call("train", *arguments(data, tmp_path / "file" / "run", *BRIEF), status=2)
    assert errors == f"train: {tmp_path}/file/run/lock: cannot be written: Not a directory\n"


def test_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        words = [sys.executable, PROJECT / "bin" / "train", "--list-recipes"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "train: the output cannot be written: No space left on device\n")
