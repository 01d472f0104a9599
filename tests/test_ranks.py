"""Training on several ranks: any number of them, under any MPI, computes the same."""

import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from commands import PROJECT, call, run, run_in_turn
from images import image, image_file
from short_runs import SHORT, arguments, metrics

from nptrain.caffe.model import read_caffemodel
from nptrain.caffe.state import read_solverstate
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb
from nptrain.recipes.schedule import Progress, advance, learning_rate
from nptrain.run.run_folder import recipe_of

pytestmark = pytest.mark.ranks

PLATEAU = [word for value in ("lr_policy=plateau", "gamma=0.5", "plateau_winsize=2,2,2,2", "average_loss=4",
                              "type=Nesterov", "warmup_iter=2", "max_iter=16", "snapshot=100", "test_interval=0")
           for word in ("--set", f"1.{value}")] + ["--reproducible"]  # fmt: skip
REPRODUCIBLE = ["--reproducible", "--iterations", "3", "--set", "1.snapshot=1", "--bucket-mib", "20"]
TWO_WORKERS = ["--workers", "2", "--iterations", "3", "--bucket-mib", "5"]
RUNS = {  # what is trained, and on how many ranks
    "first update": (["--iterations", "1"], (1, 2, 3)),
    "five losses": (["--workers", "4", "--iterations", "5"], (1, 2, 3)),
    "reproducible": ([*REPRODUCIBLE, "--workers", "6"], (1, 2, 3, 4)),
    "two passes": ([*REPRODUCIBLE, "--set", "iter_size=2"], (1, 2)),
    "one bucket travels": ([*TWO_WORKERS, "--comm-threads", "1"], (2,)),
    "two buckets travel": ([*TWO_WORKERS, "--comm-threads", "2"], (2,)),
    "plateau": ([*PLATEAU, "--iterations", "9"], (2,)),
}


def training(data, folder, name):
    """The command that trains one of RUNS."""
    return ["train", *arguments(data, folder, *SHORT, "--phase", "1", *RUNS[name][0])]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The folder of the first update by one process without MPI."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    call(*training(data, folder, "first update"))
    return folder


def weights(folder, iteration):
    return folder / "checkpoints" / f"phase1_iter_{iteration}.caffemodel"


def scoring(data, alone):
    """The command that evaluates the weights of `alone`."""
    return ["evaluate", "--weights", weights(alone, 1), "--data", data / "val", "--json"]


@pytest.fixture(scope="module")
def runs(data, alone, tmp_path_factory):
    """{name: {ranks: folder}} of all RUNS, and {"scores": {ranks: scores}}: a launch for each number of ranks."""
    top = tmp_path_factory.mktemp("runs")
    found = {name: {ranks: top / f"{name}, {ranks}" for ranks in counts} for name, (_, counts) in RUNS.items()}
    found["scores"] = {}
    for ranks in (1, 2, 3, 4):
        commands = [training(data, folders[ranks], name) for name, folders in found.items() if ranks in folders]
        *_, scores = run_in_turn([*commands, scoring(data, alone)], ranks)
        found["scores"][ranks] = json.loads(scores)
    return found


def test_the_first_update_is_the_same_on_any_number_of_ranks(runs, alone):
    """What differs is the order of sums. Later losses of so small batches amplify rounding."""
    expected = read_caffemodel(weights(alone, 1))
    for folder in runs["first update"].values():
        assert metrics(folder)[0]["loss"] == pytest.approx(metrics(alone)[0]["loss"], rel=1e-6)
        ours = read_caffemodel(weights(folder, 1))
        for layer, blobs in expected.items():
            for blob, theirs in zip(ours[layer], blobs, strict=True):
                assert np.abs(blob - theirs).max() <= 1e-5 * np.abs(theirs).max(), layer


def test_evaluation_counts_every_record_once_on_any_ranks(runs, alone):
    expected = metrics(alone)[-1]
    for result in runs["scores"].values():
        assert result["records"] == 7
        assert result["loss"] == pytest.approx(expected["test_loss"], rel=1e-6)
        assert (result["top1"], result["top5"]) == (expected["top1"], 1)


def test_losses_on_any_number_of_ranks_agree(runs):
    """The first to rounding; those that follow from weights that were summed in another order, nearly."""
    losses = [[entry["loss"] for entry in metrics(folder) if "loss" in entry]
              for folder in runs["five losses"].values()]  # fmt: skip
    for first, *rest in losses:
        assert first == pytest.approx(losses[0][0], rel=1e-6)
        assert rest == pytest.approx(losses[0][1:], rel=1e-3)
        assert len(rest) == 4


def kept(folder):
    """The bytes of every checkpoint of three iterations."""
    found = {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*.[cs]*")}
    assert len(found) == 6  # weights and momentum after every iteration
    return found


@pytest.mark.parametrize("name", ["reproducible", "two passes"])
def test_reproducible_sums_give_the_same_bits_on_any_number_of_ranks(runs, name):
    first, *others = (kept(folder) for folder in runs[name].values())
    assert all(other == first for other in others)


@pytest.mark.parametrize("environment", [".venv", ".venv-mpich", ".venv-impi"])
def test_reproducible_sums_give_the_same_bits_with_any_mpi(data, tmp_path, runs, environment):
    other = PROJECT / environment
    if other == Path(sys.prefix) or not (other / "ready").exists():
        pytest.skip(f"needs {environment}, of another MPI: make setup MPI=...")
    run_in_turn([training(data, tmp_path / "run", "reproducible")], 3, environment=other)
    assert kept(tmp_path / "run") == kept(runs["reproducible"][3])


def test_buckets_that_travel_at_once_give_the_same_bits(runs):
    """Sums of two workers do not depend on an order, so there is one result."""
    one, two = (weights(runs[name][2], 3).read_bytes() for name in ("one bucket travels", "two buckets travel"))
    assert one == two


def test_plateau_and_nesterov_resume_bit_for_bit_on_other_ranks(data, tmp_path, runs):
    """The run is cut in the middle of a window of losses, between two drops of the rate."""
    whole, parts = tmp_path / "whole", shutil.copytree(runs["plateau"][2], tmp_path / "parts")
    output, _ = call("train", *arguments(data, whole, *SHORT, "--phase", "1", *PLATEAU))
    call("train", *arguments(data, parts, *SHORT, "--phase", "1", *PLATEAU, "--resume"))
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


def test_an_error_on_one_rank_ends_all_with_its_line(data, tmp_path):
    records = [(f"{i}", encoded_datum(image_file(image(i, width=36, height=36)), i % 5)) for i in range(24)]
    records[13] = ("bad", b"\xff\xff")
    write_lmdb(tmp_path / "data", records)
    more = ["--train-data", tmp_path / "data", "--workers", "2"]
    _, errors = run("train", *arguments(data, tmp_path / "run", *more), ranks=2, status=2, timeout=120)
    assert errors.startswith("train: ")
    assert "record 00000013_bad" in errors
