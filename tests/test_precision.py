"""Whole runs in bf16: beside the plain kernels, resumed, on ranks, and what contradicts it."""

import json

import numpy as np
import pytest
from commands import call
from short_runs import SHORT, arguments, metrics

BF16 = ("--precision", "bf16")
FIRST = ["--set", "1.max_iter=4", "--set", "1.snapshot=2", "--phase", "1", "--workers", "3"]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run in bf16 that nothing interrupts."""
    folder = tmp_path_factory.mktemp("bf16") / "run"
    output, _ = call("train", *arguments(data, folder, *SHORT, *BF16))
    return folder, output


def losses(folder):
    return np.array([e["loss"] for e in metrics(folder) if "loss" in e])


def last_weights(folder):
    return (folder / "checkpoints" / "phase2_iter_3.caffemodel").read_bytes()


def test_a_run_says_and_keeps_its_precision(whole):
    folder, output = whole
    assert "images of 32x32, bf16\n" in output
    entry = json.loads((folder / "run.json").read_text())
    assert entry["recipe"]["precision"] == entry["arguments"]["precision"] == "bf16"


def test_an_interrupted_run_ends_with_the_same_bits(data, tmp_path, whole):
    call("train", *arguments(data, tmp_path / "run", *SHORT, *BF16, "--iterations", "5", "--phase", "1"))
    call("train", "--resume", tmp_path / "run", "--iterations", "99", "--phase", "1,2")
    assert last_weights(tmp_path / "run") == last_weights(whole[0])


def test_plain_kernels_train_alike(data, tmp_path):
    for kernels in ("fast", "numpy"):
        for precision in ("float32", "bf16"):
            call("train", *arguments(data, tmp_path / kernels / precision, *FIRST, "--kernels", kernels,
                                     "--precision", precision))  # fmt: skip
    fast, plain, exact = (losses(tmp_path / part) for part in ("fast/bf16", "numpy/bf16", "fast/float32"))
    assert fast[0] == pytest.approx(plain[0], rel=5e-3)
    assert fast[0] == pytest.approx(exact[0], rel=2e-2)
    assert fast == pytest.approx(plain, rel=0.15)  # later, batch norm over two images amplifies any difference
    assert not np.array_equal(fast, exact)


def test_the_precision_may_change_between_two_parts_of_a_run(data, tmp_path):
    call("train", *arguments(data, tmp_path / "run", *FIRST, "--iterations", "2"))
    output, _ = call("train", *arguments(data, tmp_path / "run", *FIRST, *BF16, "--resume"))
    assert "--precision: bf16 from here on; the run had float32" in output
    assert len(losses(tmp_path / "run")) == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["precision"] == "bf16"


def test_ranks_change_no_bit(data, tmp_path, on_ranks):
    every = arguments(data, tmp_path / "one", *FIRST, *BF16, "--reproducible", "--threads", "1")
    call("train", *every)
    on_ranks(2).call("train", *arguments(data, tmp_path / "two", *FIRST, *BF16, "--reproducible"))
    assert np.array_equal(losses(tmp_path / "one"), losses(tmp_path / "two"))


def test_evaluation_is_in_the_precision_of_the_run_or_in_another(data, whole):
    found = {}
    for precision in ((), BF16, ("--precision", "float32")):
        output, _ = call("evaluate", "--weights", whole[0], "--data", data / "val", "--json", *precision)
        found[precision] = json.loads(output)["loss"]
    assert found[()] == found[BF16] != found["--precision", "float32"]
    assert found[()] == pytest.approx(found["--precision", "float32"], rel=2e-2)


def test_what_contradicts_it_is_refused(data, tmp_path):
    plain = ("--kernels", "numpy", "--dtype", "float64")
    _, errors = call("train", *arguments(data, tmp_path / "run", *BF16, *plain), status=2)
    assert errors == "train: --dtype: found float64 together with --precision bf16, expected one of them\n"
    _, errors = call("train", *arguments(data, tmp_path / "run", "--set", "precision=half"), status=2)
    assert errors.startswith("train: precision: found half, expected one of float32, bf16")
    _, errors = call("plan", *BF16, status=2)
    assert "the published one is for float32, the recipe for bf16" in errors
