"""Training on several ranks: any number of them, under any MPI, computes the same."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from commands import PROJECT, TINY, run
from images import image, image_file
from short_runs import SHORT, arguments, make_data, metrics

from nptrain.caffe.state import read_solverstate
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb
from nptrain.recipes.schedule import Progress, advance, learning_rate
from nptrain.run.run_folder import recipe_of

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def test_losses_on_any_number_of_ranks_agree(data, tmp_path):
    """The first to rounding; those that follow from weights that were summed in another order, nearly."""
    losses = []
    for ranks in (1, 2, 3):
        steps = ["--workers", "4", "--phase", "1", "--iterations", "5"]
        run("train", *arguments(data, tmp_path / str(ranks), *SHORT, *steps), ranks=ranks)
        losses.append([entry["loss"] for entry in metrics(tmp_path / str(ranks)) if "loss" in entry])
    for first, *rest in losses:
        assert first == pytest.approx(losses[0][0], rel=1e-6)
        assert rest == pytest.approx(losses[0][1:], rel=1e-3)
        assert len(rest) == 4


def reproducible(data, folder, ranks, *more, environment=None):
    """Train 3 iterations of 6 workers with --reproducible; returns the bytes of every checkpoint."""
    steps = ["--workers", "6", "--phase", "1", "--set", "1.snapshot=1", "--iterations", "3", "--bucket-mib", "20",
             *more]  # fmt: skip
    run("train", *arguments(data, folder, *SHORT, *steps, "--reproducible"), ranks=ranks, environment=environment)
    kept = {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*.[cs]*")}
    assert len(kept) == 6  # weights and momentum after every iteration
    return kept


def test_reproducible_sums_give_the_same_bits_on_any_number_of_ranks(data, tmp_path):
    found = [reproducible(data, tmp_path / str(ranks), ranks) for ranks in (1, 2, 3, 4)]
    assert found[0] == found[1] == found[2] == found[3]


def test_several_passes_an_iteration_give_the_same_bits_on_any_number_of_ranks(data, tmp_path):
    passes = ["--set", "iter_size=2", "--workers", "3"]
    assert reproducible(data, tmp_path / "1", 1, *passes) == reproducible(data, tmp_path / "2", 2, *passes)


@pytest.mark.parametrize("environment", [".venv", ".venv-mpich", ".venv-impi"])
def test_reproducible_sums_give_the_same_bits_with_any_mpi(data, tmp_path, environment):
    other = PROJECT / environment
    if other == Path(sys.prefix) or not (other / "ready").exists():
        pytest.skip(f"needs {environment}, of another MPI: make setup MPI=...")
    ours = reproducible(data, tmp_path / "ours", ranks=3)
    assert ours == reproducible(data, tmp_path / "other", ranks=3, environment=other)


def test_buckets_that_travel_at_once_give_the_same_bits(data, tmp_path):
    """Sums of two workers do not depend on an order, so there is one result."""
    files = []
    for threads in ("1", "2"):
        steps = ["--workers", "2", "--phase", "1", "--iterations", "3", "--bucket-mib", "5", "--comm-threads", threads]
        run("train", *arguments(data, tmp_path / threads, *SHORT, *steps), ranks=2)
        files.append((tmp_path / threads / "checkpoints" / "phase1_iter_3.caffemodel").read_bytes())
    assert files[0] == files[1]


def test_plateau_and_nesterov_resume_bit_for_bit_on_other_ranks(data, tmp_path):
    """The run is cut in the middle of a window of losses, between two drops of the rate."""
    values = ("lr_policy=plateau", "gamma=0.5", "plateau_winsize=2,2,2,2", "average_loss=4", "type=Nesterov",
              "warmup_iter=2", "max_iter=16", "snapshot=100")  # fmt: skip
    steps = [word for value in values for word in ("--set", f"1.{value}")]
    steps += ["--workers", "3", "--phase", "1", "--reproducible", "--train-data", data / "train"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output, _ = run("train", *TINY, *steps, "--run-dir", whole)
    run("train", *TINY, *steps, "--run-dir", parts, "--iterations", "9", ranks=2)
    run("train", *TINY, *steps, "--run-dir", parts, "--resume")
    assert metrics(parts) == metrics(whole)
    phase, progress = recipe_of(whole).phases[0], Progress()
    for entry in metrics(whole):  # an iteration's own loss decides on its rate
        progress = advance(progress, phase, entry["iteration"], entry["loss"])
        assert entry["lr"] == learning_rate(phase, entry["iteration"], progress.current_step)
    drops = [entry["iteration"] for before, entry in pairwise(metrics(whole)) if entry["lr"] == before["lr"] / 2]
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
    assert manifest["losses"] == [entry["loss"] for entry in metrics(whole)[-4:]]


def test_an_error_on_one_rank_ends_all_with_its_line(data, tmp_path):
    records = [(f"{i}", encoded_datum(image_file(image(i, width=36, height=36)), i % 5)) for i in range(24)]
    records[13] = ("bad", b"\xff\xff")
    write_lmdb(tmp_path / "data", records)
    more = ["--train-data", tmp_path / "data", "--workers", "2"]
    _, errors = run("train", *arguments(data, tmp_path / "run", *more), ranks=2, status=2, timeout=120)
    assert errors.startswith("train: ")
    assert "record 00000013_bad" in errors
