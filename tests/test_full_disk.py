"""A disk that is full, or a folder that cannot be written, ends a run with one line and no traceback."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from commands import PROJECT, call
from short_runs import arguments

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
    assert errors == f"train: {path}: {line}\n"
    assert os.listdir(path.parent) == []


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
