"""What a network file system refuses for a moment is tried again, within limits, and said once."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
from commands import call
from short_runs import arguments, metrics
from weights import write_layers

from nptrain import files
from nptrain.caffe import wire
from nptrain.caffe.model import read_caffemodel
from nptrain.data import lmdb_dataset
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError, ReadError
from nptrain.run import checkpoint, manifest
from nptrain.run.metrics import MetricsFile

BRIEF = ["--phase", "1", "--workers", "1", "--kernels", "numpy", "--iterations", "3"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0, 0.0))


def failing(function, turns, code=errno.EIO):
    """The function, which fails at its calls of these numbers, from 1 on."""
    calls = []

    def call(*args, **named):
        calls.append(args)
        if len(calls) in turns:
            raise OSError(code, os.strerror(code))
        return function(*args, **named)

    return call


@pytest.mark.parametrize("code", files.TRANSIENT)
def test_a_moment_is_waited_for_and_said_once(capsys, code):
    assert files.retried(failing(lambda: 7, (1, 2, 3), code), "/net/x") == 7
    host = os.uname().nodename
    assert capsys.readouterr().err == f"/net/x on {host}: {os.strerror(code)}: trying again for 0 s\n"


def test_there_is_a_limit(capsys):
    with pytest.raises(OSError, match="Input/output error"):
        files.retried(failing(lambda: 7, range(1, 5)), "/net/x")
    with pytest.raises(OSError, match="No space"):
        files.retried(failing(lambda: 7, (1,), errno.ENOSPC), "/net/x")
    with pytest.raises(InputError, match=r"^x$"):
        files.retried(lambda: (_ for _ in ()).throw(InputError("x")), "/net/x")
    assert capsys.readouterr().err.count("\n") == 1


def test_pauses_are_bounded(monkeypatch):
    monkeypatch.undo()
    assert sum(files.PAUSES) < 10
    assert sorted(files.PAUSES) == list(files.PAUSES)


def test_records_are_read_again(data, tmp_path, monkeypatch):
    call("train", *arguments(data, tmp_path / "whole", *BRIEF))
    monkeypatch.setattr(lmdb_dataset.os, "pread", failing(os.pread, (3, 90, 91), errno.ESTALE))
    _, errors = call("train", *arguments(data, tmp_path / "run", *BRIEF))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    again = f"data.mdb on {os.uname().nodename}: Stale file handle: trying again for 0 s\n"
    assert errors.count("\n") == errors.count(again) == 2


def test_a_record_that_stays_away_is_named(data, monkeypatch, capsys):
    dataset = LmdbDataset(data / "train")
    monkeypatch.setattr(lmdb_dataset.os, "pread", failing(os.pread, range(99)))
    with pytest.raises(ReadError, match=r"record 00000003.*: cannot be read: Input/output error$"):
        dataset[3]


def test_lines_of_metrics_are_written_again(tmp_path, capsys):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    real = file.file
    file.file = SimpleNamespace(write=failing(real.write, (1, 3)), fileno=real.fileno, close=real.close)
    file.write(b"one\n")
    file.write(b"two\n")
    file.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"one\ntwo\n"
    assert capsys.readouterr().err.count("Input/output error: trying again") == 2


def test_small_files_are_written_anew_as_a_whole(tmp_path, monkeypatch, capsys):
    path = tmp_path / "end.json"
    monkeypatch.setattr(files.os, "fsync", failing(os.fsync, (1,)))
    files.write_small(path, b"{}")
    assert path.read_bytes() == b"{}"
    monkeypatch.setattr(files.os, "fsync", failing(os.fsync, range(1, 9)))
    with pytest.raises(InputError, match=r"end.json: cannot be written: Input/output error$"):
        files.write_small(path, b"[]")
    assert os.listdir(tmp_path) == ["end.json"]
    assert path.read_bytes() == b"{}"


def test_files_are_read_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "w.caffemodel"
    write_layers(path, "net", [("a", "Convolution", [np.ones((2, 3), np.float32)])])
    real, made = path.read_bytes(), wire._Source.__init__

    def source(self, file):
        made(self, file)
        own = self.file
        self.file = SimpleNamespace(name=own.name, seek=own.seek, read=failing(own.read, (2,)),
                                    readinto=failing(own.readinto, (1,)))  # fmt: skip

    monkeypatch.setattr(wire._Source, "__init__", source)
    assert (read_caffemodel(path)["a"][0] == 1).all()
    digest = manifest.sha256(path)
    monkeypatch.setattr(manifest.hashlib, "file_digest", failing(manifest.hashlib.file_digest, (1,)))
    assert manifest.sha256(path) == digest
    monkeypatch.setattr(files, "check_regular", failing(files.check_regular, (1,)))
    assert files.read_small(path) == real
    assert capsys.readouterr().err.count("trying again") == 4


def test_a_checkpoint_that_is_waited_for_is_written_again(data, tmp_path, monkeypatch):
    """One beside the step cannot: the weights have moved on. The next one is."""
    words = [*BRIEF, "--set", "1.snapshot=2"]
    call("train", *arguments(data, tmp_path / "whole", *words))
    monkeypatch.setattr(checkpoint, "state_into", failing(checkpoint.state_into, (1, 2)))
    output, errors = call("train", *arguments(data, tmp_path / "run", *words))
    state = tmp_path / "run" / "checkpoints" / "phase1_iter_2.solverstate"
    assert f"no checkpoint, and the run goes on: {state}: cannot be written: Input/output error\n" in output
    assert errors.count("Input/output error: trying again") == 1
    assert not state.exists()
    for kind in ("caffemodel", "solverstate"):
        one, other = (tmp_path / name / "checkpoints" / f"phase1_iter_3.{kind}" for name in ("whole", "run"))
        assert one.read_bytes() == other.read_bytes()
