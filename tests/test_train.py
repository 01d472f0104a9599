"""The train and evaluate commands: resuming, checkpoints, and what a user's mistakes look like."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from commands import PROJECT, call, run
from images import image, image_file
from short_runs import SHORT, arguments, metrics
from weights import write_layers

from nptrain.caffe.model import read_caffemodel
from nptrain.caffe.state import read_solverstate
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb
from nptrain.data.loader import TrainLoader


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of both phases that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    output, _ = call("train", *arguments(data, folder, *SHORT))
    return folder, output


def test_a_run_and_its_folder(whole):
    folder, output = whole
    entries = metrics(folder)
    losses = [e for e in entries if "loss" in e]
    places = [(e["phase"], e["iteration"]) for e in losses]
    assert places == [("1", i) for i in range(12)] + [("2", i) for i in range(3)]
    assert [(e["phase"], e["iteration"]) for e in entries if "top1" in e] == [("1", 6), ("1", 12), ("2", 3)]
    assert losses[0]["lr"] == 0.001
    names = {p.name for p in (folder / "checkpoints").iterdir()}
    assert names == {f"phase{p}_iter_{i}.{kind}" for p, i in ((1, 4), (1, 8), (1, 12), (2, 3))
                     for kind in ("caffemodel", "solverstate", "json")}  # fmt: skip
    description = json.loads((folder / "run.json").read_text())
    assert description["recipe"]["phases"][1]["starts_from"] == 8
    assert description["hosts"][0]["workers"] == [0, 1, 2]
    assert description["versions"]["numpy"] == np.__version__
    assert "phase 2: starts from the weights of phase 1 at iteration 8" in output
    assert "phase 1  12/12  epoch 1.76/1.76  loss" in output
    assert "\r" not in output


def test_the_second_phase_starts_with_fresh_momentum(whole):
    history = read_solverstate(whole[0] / "checkpoints" / "phase2_iter_3.solverstate").history
    before = read_solverstate(whole[0] / "checkpoints" / "phase1_iter_12.solverstate").history
    assert np.abs(history[0]).max() < 0.5 * np.abs(before[0]).max()


KILLED = f"""
import os, pkgutil, signal, sys
sys.path.insert(0, {str(PROJECT)!r})
from bin.commands import train
from bin.launch import run

def dying(function, turn):
    turns = iter(range(1, turn))
    def call(*args, **named):
        if next(turns, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)
    return call

owner, name, turn, *words = sys.argv[1:]
owner = pkgutil.resolve_name(owner)
setattr(owner, name, dying(getattr(owner, name), int(turn)))
sys.exit(run("train", train.main, words))
"""


@pytest.mark.parametrize(
    ("owner", "name", "turn", "resumed"),
    [
        ("nptrain.run.log:Log", "iteration", 6, 4),  # between two checkpoints: it would write its sixth loss
        ("os", "fsync", 11, 4),  # within the second one: weights are there, momentum is in a temporary file
        ("nptrain.run.log:Log", "iteration", 14, 12),  # in phase 2, which has no checkpoint yet
    ],
)
def test_a_killed_run_resumes_bit_for_bit(data, tmp_path, whole, owner, name, turn, resumed):
    """The process is killed when it calls a function for the `turn`-th time."""
    folder = tmp_path / "run"
    words = [owner, name, turn, *arguments(data, folder, *SHORT)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (owner == "os") == bool(list((folder / "checkpoints").glob(".*.tmp")))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"phase": "1", "iter')  # as a crash can leave it
    output, _ = call("train", *arguments(data, folder, *SHORT), "--resume")
    assert f"resumes at phase 1, iteration {resumed}\n" in output
    assert metrics(folder) == metrics(whole[0])
    for stem in ("phase1_iter_12", "phase2_iter_3"):
        for kind in ("caffemodel", "solverstate"):
            ours, theirs = ((f / "checkpoints" / f"{stem}.{kind}").read_bytes() for f in (folder, whole[0]))
            assert ours == theirs


def test_a_damaged_checkpoint_is_passed_over(data, tmp_path, whole):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    for path in (folder / "checkpoints").glob("phase2_*"):
        path.unlink()
    newest = folder / "checkpoints" / "phase1_iter_12.caffemodel"
    newest.write_bytes(newest.read_bytes()[:-1])
    output, _ = call("train", *arguments(data, folder, *SHORT), "--resume")
    assert "skipped a damaged checkpoint" in output
    assert "resumes at phase 1, iteration 8" in output
    assert metrics(folder) == metrics(whole[0])


def test_resuming_what_is_done_changes_nothing(data, whole):
    before = metrics(whole[0])
    output, _ = call("train", *arguments(data, whole[0], *SHORT), "--resume")
    assert metrics(whole[0]) == before
    assert "from here on" not in output


def test_resuming_says_what_may_change_the_bits(data, whole):
    output, _ = call("train", *arguments(data, whole[0], *SHORT), "--resume", "--reproducible")
    assert "\n--reproducible: True from here on; the run had False\n" in f"\n{output}"


def test_resume_refuses_another_recipe(data, whole):
    _, errors = call("train", *arguments(data, whole[0], *SHORT, "--set", "1.momentum=0.8"), "--resume", status=2)
    assert errors.startswith("train: 1.momentum: found 0.8, expected 0.9, as in the run in")
    _, errors = call("train", *arguments(data, whole[0], *SHORT), status=2)
    assert "contains a run already" in errors


def test_a_run_of_before_is_resumed(data, tmp_path, whole):
    """Its run.json calls blob_overrides "blobs", and has no records."""
    folder = shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns("phase2_*"))
    description = json.loads((folder / "run.json").read_text())
    description["recipe"]["blobs"] = description["recipe"].pop("blob_overrides")
    del description["recipe"]["records"]
    (folder / "run.json").write_text(json.dumps(description))
    call("train", *arguments(data, folder, *SHORT), "--resume")
    assert metrics(folder) == metrics(whole[0])


def test_threads_change_nothing(data, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    files = []
    for threads in ("1", "2"):
        folder = tmp_path / threads
        call("train", *arguments(data, folder, *SHORT, "--phase", "1", "--iterations", "3", "--threads", threads))
        files.append((folder / "checkpoints" / "phase1_iter_3.caffemodel").read_bytes())
    assert files[0] == files[1]


def test_evaluation_counts_every_record_once(data, whole):
    weights = whole[0] / "checkpoints" / "phase2_iter_3.caffemodel"
    expected = metrics(whole[0])[-1]
    for kernels, precision in (("fast", 1e-6), ("numpy", 1e-4)):
        output, _ = call("evaluate", "--weights", weights, "--data", data / "val", "--kernels", kernels, "--json")
        result = json.loads(output)
        assert result["records"] == 7
        assert result["loss"] == pytest.approx(expected["test_loss"], rel=precision)
        assert (result["top1"], "top5" in result) == (expected["top1"], False)  # of five classes


def test_weights_alone_start_a_run(data, tmp_path, whole, monkeypatch):
    """Whose random streams are those of the phase's place in the recipe."""
    weights, places = whole[0] / "checkpoints" / "phase1_iter_8.caffemodel", []
    monkeypatch.setattr("nptrain.train.TrainLoader", lambda *data, **of: places.append(of["phase"]) or
                        TrainLoader(*data, **of))  # fmt: skip
    call("train", *arguments(data, tmp_path / "run", *SHORT, "--phase", "2", "--weights", weights))
    assert places == [1]
    losses, expected = ([e for e in metrics(f) if e["phase"] == "2"] for f in (tmp_path / "run", whole[0]))
    assert losses == expected


def test_plain_kernels_train_too(data, tmp_path, whole):
    short = [*SHORT, "--phase", "1", "--iterations", "1", "--kernels", "numpy", "--dtype", "float64"]
    call("train", *arguments(data, tmp_path / "run", *short))
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(metrics(whole[0])[0]["loss"], rel=1e-4)


def bad_records(folder):
    """LMDBs with one thing wrong in each: {name: part of the line that says so}."""
    good = encoded_datum(image_file(image(width=36, height=36)), 1)
    cases = {
        "no datum": (b"\xff\xff\xff", "record 00000000_x"),
        "broken image": (encoded_datum(b"\xff\xd8\xff\xe0 no JPEG", 1), "record 00000000_x"),
        "label": (encoded_datum(image_file(image(width=36, height=36)), 5), "label 5"),
        "small image": (encoded_datum(image_file(image(width=20, height=20)), 1), "20x20"),
    }
    for name, (record, line) in cases.items():
        write_lmdb(folder / name, [("x", record), ("y", good)])
        yield name, line


def test_bad_data_is_one_line(data, tmp_path):
    for name, line in bad_records(tmp_path):
        more = ["--train-data", tmp_path / name, "--set", "pad=0", "--iterations", "1"]
        _, errors = call("train", *arguments(data, tmp_path / f"run {name}", *more), status=2)
        assert line in errors
        assert errors.startswith("train: ")
        assert errors.count("\n") == 1
    (tmp_path / "empty").mkdir()
    for path, line in ((tmp_path / "none", "none"), (tmp_path / "empty", "empty")):
        _, errors = call("train", *arguments(data, tmp_path / "run", "--train-data", path), status=2)
        assert line in errors
        assert errors.count("\n") == 1


def test_bad_records_may_be_replaced(data, tmp_path):
    records = [(f"{i}", encoded_datum(image_file(image(i, width=36, height=36)), i % 5)) for i in range(8)]
    records[3] = ("bad", b"\xff\xff")
    write_lmdb(tmp_path / "data", records)
    more = ["--train-data", tmp_path / "data", *SHORT, "--iterations", "3", "--max-bad-records", "1"]
    output, _ = call("train", *arguments(data, tmp_path / "run", *more, "--set", "2.starts_from=3"))
    lines = output.splitlines()
    (said,) = [at for at, line in enumerate(lines) if "record 00000003_bad" in line]  # once, in two phases
    assert lines[said].startswith(f"replaced a bad record: {tmp_path}/data: record ")
    assert "  2/3  " in lines[said - 1] or "  1/3  " in lines[said - 1]  # in the iteration where it happens


def test_flags_and_files_are_checked(data, tmp_path, whole):
    blobs = read_caffemodel(whole[0] / "checkpoints" / "phase1_iter_8.caffemodel")
    blobs["conv1"][0] = np.zeros((16, 3, 5, 5), np.float32)
    write_layers(tmp_path / "other.caffemodel", "x", [(n, "x", b) for n, b in blobs.items()])
    for more, line in (
        (["--recipe", "resnet51"], "--recipe: found 'resnet51', expected one of"),
        (["--set", "base_rate=1"], "the unknown field 'base_rate'"),
        (["--phase", "3"], "phase: found '3'"),
        (["--weights", tmp_path / "none.caffemodel"], "none.caffemodel"),
        (["--weights", tmp_path / "other.caffemodel"],
         "other.caffemodel: layer conv1 blob 0 has shape (16, 3, 5, 5), expected (16, 3, 7, 7)"),
        (["--phase", "2"], "no checkpoint of phase 1"),
        (["--resume"], "run.json does not exist"),
        (["--dtype", "float64"], "--dtype: found float64"),
        (["--threads", "0"], "--threads: found 0, expected 1 to 4096"),
        (["--threads", "999"], "999 threads"),
        (["--bucket-mib", "inf"], "--bucket-mib: found inf, expected more than 0"),
    ):  # fmt: skip
        _, errors = call("train", *arguments(data, tmp_path / "run", *SHORT, *more), status=2)
        assert line in errors
        assert errors.count("\n") == 1, errors
    _, errors = call("train", "--no-such-flag", status=2)
    assert "unrecognized arguments: --no-such-flag" in errors


def test_without_a_recipe_nothing_begins(data, tmp_path):
    output, errors = call("train", "--train-data", data / "train", status=2, cwd=tmp_path)
    assert errors.startswith("train: --recipe: found none, expected photos (for your own images), resnet50-448nodes, ")
    assert (output, errors.count("\n"), list(tmp_path.iterdir())) == ("", 1, [])


@pytest.mark.parametrize("iterations", [1, 4])
def test_numbers_that_are_not_finite_end_the_run(data, tmp_path, iterations):
    """Before they are in a checkpoint, and after the last update, too."""
    folder = tmp_path / "run"
    more = ["--set", "1.base_lr=1e38", "--set", "1.warmup_iter=0", "--set", "1.weight_decay=1000", "--set",
            "1.snapshot=1", "--phase", "1"]  # fmt: skip
    _, errors = call("train", *arguments(data, folder, *more, "--iterations", iterations), status=1)
    assert "iteration 0: after the update the weights are not finite; there is no checkpoint\n" in errors
    assert errors.count("\n") == 1
    assert list((folder / "checkpoints").iterdir()) == []


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    """In one line on any number of ranks."""
    more = ["--set", "1.base_lr=1e20", "--set", "1.warmup_iter=0", "--set", "1.snapshot=1", "--phase", "1"]
    _, errors = run("train", *arguments(data, tmp_path / "run", *more), ranks=2, status=1)
    lines = [line for line in errors.splitlines() if line.startswith("train: ")]
    assert len(lines) == 1, errors
    assert "the loss is " in lines[0] or "the gradient is not finite" in lines[0]
    assert "the last checkpoint is " in lines[0]
