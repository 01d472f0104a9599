"""Tests of a run: the best one, the checkpoints that stay, and the end of a phase in which nothing becomes better."""

import json
from math import inf, nan

import pytest
from commands import call
from short_runs import arguments, metrics

from nptrain import train
from nptrain.run.best import Test, best_of, read_tests, without_improvement

BRIEF = ["--workers", "1", "--kernels", "numpy", "--set", "1.max_iter=6", "--set", "2.max_iter=2", "--set",
         "2.starts_from=3", "--set", "snapshot=1", "--set", "test_interval=1"]  # fmt: skip


@pytest.fixture
def top1(monkeypatch):
    """A function: the tests of the runs that follow have these top-1."""

    def of(*values):
        values = iter(values)
        monkeypatch.setattr(train, "evaluate", lambda *_: {"loss": 1.0, "top1": next(values), "top5": 1.0})

    return of


def saved(folder):
    return sorted(path.stem.removeprefix("phase") for path in (folder / "checkpoints").glob("*.json"))


def test_the_best_is_the_first_of_the_highest():
    tests = [Test("1", 5, 0.5), Test("1", 10, 0.7), Test("1", 15, -inf), Test("2", 1, 0.6), Test("2", 2, 0.7)]
    assert best_of(tests) is tests[1]
    assert (best_of([]), best_of(tests[2:3])) == (None, None)
    assert [without_improvement(tests, phase) for phase in "123"] == [1, 0, 0]
    assert Test.of("1", 5, {"loss": nan, "top1": 1.0}) == Test("1", 5, -inf)


def test_checkpoints_that_are_needed_stay(data, tmp_path, top1):
    folder = tmp_path / "run"
    top1(0.1, 0.6, 0.2, 0.3, 0.3, 0.3, 0.4, 0.5)
    call("train", *arguments(data, folder, *BRIEF, "--keep", "2"))
    assert saved(folder) == ["1_iter_2", "1_iter_3", "2_iter_1", "2_iter_2"]  # the best, where phase 2 starts, two more
    assert len(list((folder / "checkpoints").iterdir())) == 4 * 3
    assert json.loads((folder / "best.json").read_text()) == {
        "phase": "1", "iteration": 2, "top1": 0.6, "weights": str(folder / "checkpoints" / "phase1_iter_2.caffemodel")
    }  # fmt: skip


def test_a_test_without_a_checkpoint_has_no_weights(data, tmp_path, top1):
    top1(0.1, 0.6, 0.2)
    call(
        "train", *arguments(data, tmp_path / "run", *BRIEF, "--set", "snapshot=0", "--phase", "1", "--iterations", "3")
    )
    assert json.loads((tmp_path / "run" / "best.json").read_text())["weights"] is None


def test_a_phase_ends_where_nothing_becomes_better(data, tmp_path, top1):
    folder = tmp_path / "run"
    top1(0.1, 0.6, 0.2, 0.5, 0.3, 0.4)
    more = ["--early-stop", "2", "--set", "1.snapshot=0", "--set", "2.starts_from=none"]
    output, _ = call("train", *arguments(data, folder, *BRIEF, *more))
    assert "phase 1 ends at iteration 4: no better top-1 in 2 tests (--early-stop)\n" in output
    assert saved(folder) == ["1_iter_4", "2_iter_1", "2_iter_2"]
    assert "phase 2: starts from the weights of phase 1 at iteration 4 (the recipe says 6, which" in output


def test_it_counts_on_when_a_run_goes_on(data, tmp_path, top1):
    folder = tmp_path / "run"
    short = arguments(data, folder, *BRIEF, "--early-stop", "2", "--phase", "1")
    top1(0.1, 0.6, 0.2, 0.5)
    call("train", *short, "--iterations", "3")
    top1(0.2, 0.5)  # the test at the checkpoint is made again
    output, _ = call("train", "--resume", folder, "--iterations", "6")
    assert "phase 1 ends at iteration 4: no better top-1 in 2 tests (--early-stop)\n" in output
    assert [test.top1 for test in read_tests(folder / "metrics.jsonl")] == [0.1, 0.6, 0.2, 0.5]
    before = metrics(folder)
    top1(0.5)
    output, _ = call("train", "--resume", folder)
    assert "phase 1 ends at iteration 4: " in output
    assert metrics(folder) == before


def test_an_early_stop_needs_tests(data, tmp_path):
    words = ["--recipe", "digits", "--train-data", data / "train", "--run-dir", tmp_path / "run", "--early-stop", "2"]
    _, errors = call("train", *words, status=2)
    assert errors == "train: --early-stop: expected only together with --val-data: it counts tests\n"
