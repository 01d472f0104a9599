"""Training on several ranks: any number of them, under any MPI, computes the same."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from commands import PROJECT, call, run
from images import image, image_file
from ranks import Ranks
from short_runs import SHORT, arguments, metrics

from nptrain.caffe.model import read_caffemodel
from nptrain.caffe.state import read_solverstate
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb
from nptrain.recipes.schedule import Progress, advance, learning_rate
from nptrain.run.run_folder import recipe_of

pytestmark = pytest.mark.ranks


@pytest.fixture
def train_on(data, on_ranks, tmp_path):
    """A function: train phase 1 of a short run on so many ranks, with more words; returns the run's folder."""

    def train(size, *words, folder=None):
        folder = folder or tmp_path / "-".join(map(str, (size, *words)))
        on_ranks(size).call("train", *arguments(data, folder, *SHORT, "--phase", "1", *words))
        return folder

    return train


def weights(folder, iteration):
    return folder / "checkpoints" / f"phase1_iter_{iteration}.caffemodel"


def test_first_update_and_evaluation_are_the_same_on_any_number_of_ranks(data, tmp_path, on_ranks, train_on):
    """What differs is the order of sums. Later losses of so small batches amplify rounding. Every record counts once
    in a test.
    """
    alone = tmp_path / "alone"
    call("train", *arguments(data, alone, *SHORT, "--phase", "1", "--iterations", "1"))
    (first, test), expected = metrics(alone), read_caffemodel(weights(alone, 1))
    for size in (1, 2, 3):
        folder = train_on(size, "--iterations", "1")
        assert metrics(folder)[0]["loss"] == pytest.approx(first["loss"], rel=1e-6)
        ours = read_caffemodel(weights(folder, 1))
        for layer, blobs in expected.items():
            for blob, theirs in zip(ours[layer], blobs, strict=True):
                assert np.abs(blob - theirs).max() <= 1e-5 * np.abs(theirs).max(), layer
        scores = on_ranks(size).call("evaluate", "--weights", weights(alone, 1), "--data", data / "val", "--json")
        result = json.loads(scores)
        assert result["records"] == 7
        assert result["loss"] == pytest.approx(test["test_loss"], rel=1e-6)
        assert result["top1"] == test["top1"]


def test_losses_on_any_number_of_ranks_agree(train_on):
    """The first to rounding; those that follow from weights that were summed in another order, nearly."""
    losses = []
    for size in (1, 2, 3):
        folder = train_on(size, "--workers", "4", "--iterations", "5")
        losses.append([entry["loss"] for entry in metrics(folder) if "loss" in entry])
    for first, *rest in losses:
        assert first == pytest.approx(losses[0][0], rel=1e-6)
        assert rest == pytest.approx(losses[0][1:], rel=1e-3)
        assert len(rest) == 4


REPRODUCIBLE = ["--reproducible", "--iterations", "3", "--set", "1.snapshot=1"]


def kept(folder):
    """The bytes of every checkpoint of three iterations."""
    found = {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*.[cs]*")}
    assert len(found) == 6  # weights and momentum after every iteration
    return found


def test_reproducible_sums_give_the_same_bits_on_any_number_of_ranks(train_on):
    found = [kept(train_on(size, *REPRODUCIBLE, "--workers", "6")) for size in (1, 2, 3, 4)]
    assert found[0] == found[1] == found[2] == found[3]


def test_several_passes_an_iteration_give_the_same_bits_on_any_number_of_ranks(train_on):
    one, two = (kept(train_on(size, *REPRODUCIBLE, "--set", "iter_size=2")) for size in (1, 2))
    assert one == two


@pytest.mark.parametrize("environment", [".venv", ".venv-mpich", ".venv-impi"])
def test_reproducible_sums_give_the_same_bits_with_any_mpi(data, tmp_path, train_on, environment):
    other = PROJECT / environment
    if other == Path(sys.prefix) or not (other / "ready").exists():
        pytest.skip(f"needs {environment}, of another MPI: make setup MPI=...")
    ours, words = train_on(3, *REPRODUCIBLE, "--workers", "6"), [*REPRODUCIBLE, "--workers", "6", "--phase", "1"]
    theirs = Ranks(3, other)
    theirs.call("train", *arguments(data, tmp_path / "theirs", *SHORT, *words))
    theirs.close()
    assert kept(tmp_path / "theirs") == kept(ours)


def test_buckets_that_travel_at_once_give_the_same_bits(train_on):
    """Sums of two workers do not depend on an order, so there is one result."""
    words = ["--workers", "2", "--iterations", "3", "--bucket-mib", "0.3"]
    one, two = (weights(train_on(2, *words, "--comm-threads", count), 3).read_bytes() for count in (1, 2))
    assert one == two


def test_plateau_and_nesterov_resume_bit_for_bit_on_other_ranks(data, tmp_path, train_on):
    """The run is cut in the middle of a window of losses, between two drops of the rate."""
    values = ("lr_policy=plateau", "gamma=0.5", "plateau_winsize=2,2,2,2", "average_loss=4", "type=Nesterov",
              "warmup_iter=2", "max_iter=16", "snapshot=100", "test_interval=0")  # fmt: skip
    words = [word for value in values for word in ("--set", f"1.{value}")] + ["--reproducible"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output, _ = call("train", *arguments(data, whole, *SHORT, "--phase", "1", *words))
    train_on(2, *words, "--iterations", "9", folder=parts)
    call("train", *arguments(data, parts, *SHORT, "--phase", "1", *words, "--resume"))
    assert metrics(parts) == metrics(whole)
    steps = [entry for entry in metrics(whole) if "loss" in entry]
    phase, progress = recipe_of(whole).phases[0], Progress()
    for entry in steps:  # an iteration's own loss decides on its rate
        progress = advance(progress, phase, entry["iteration"], entry["loss"])
        assert entry["lr"] == learning_rate(phase, entry["iteration"], progress.current_step)
    drops = [entry["iteration"] for before, entry in pairwise(steps) if entry["lr"] == before["lr"] / 2]
    assert drops[0] < 9 <= drops[-1]
    assert all(f"phase 1, iteration {drop}: the smoothed loss has not gone below" in output for drop in drops)
    names = [f"phase1_iter_16.{kind}" for kind in ("caffemodel", "solverstate")]
    ours, theirs = ([(f / "checkpoints" / name).read_bytes() for name in names] for f in (parts, whole))
    assert ours == theirs
    state = read_solverstate(whole / "checkpoints" / names[1])
    assert state.current_step == len(drops)
    assert state.iter_last_event >= drops[-1]
    assert state.minimum_loss < 10
    manifest = json.loads((whole / "checkpoints" / "phase1_iter_16.json").read_text())
    assert manifest["losses"] == [entry["loss"] for entry in steps[-4:]]


@pytest.fixture
def flawed(tmp_path):
    """24 records, of which one is bad."""
    records = [(f"{i}", encoded_datum(image_file(image(i, width=36, height=36)), i % 5)) for i in range(24)]
    records[13] = ("bad", b"\xff\xff")
    write_lmdb(tmp_path / "data", records)


def test_a_bad_record_that_several_ranks_replace_is_one(data, tmp_path, on_ranks, flawed):
    words = ["--train-data", tmp_path / "data", "--workers", "2", "--iterations", "40", "--phase", "1",
             "--max-bad-records", "1", "--set", "1.max_iter=40"]  # fmt: skip
    output = on_ranks(2).call("train", *arguments(data, tmp_path / "run", *words))
    lines = [line for line in output.splitlines() if "record 00000013_bad" in line]
    assert len(lines) == 1
    assert lines[0].startswith("replaced a bad record: ")


def test_an_error_on_one_rank_ends_all_with_its_line(data, tmp_path, flawed):
    more = ["--train-data", tmp_path / "data", "--workers", "2"]
    _, errors = run("train", *arguments(data, tmp_path / "run", *more), ranks=2, status=2, timeout=120)
    assert errors.startswith("train: ")
    assert "record 00000013_bad" in errors
