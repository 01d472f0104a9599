"""Whole runs in bf16: beside the plain kernels, resumed, on ranks, and what contradicts it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from commands import call
from short_runs import SHORT, arguments, metrics

from bin.common import prepare
from bin.common.agreement import agree_on_cpus
from mpi.agree import AgreedError

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


def test_a_flag_that_is_given_now_wins_over_an_assignment_then(data, tmp_path):
    first = arguments(data, tmp_path / "run", *FIRST, "--set", "precision=bf16", "--iterations", "2")
    call("train", *first)
    output, _ = call("train", "--resume", tmp_path / "run", "--iterations", "99")
    assert "from here on" not in output
    call("train", *first, "--run-dir", tmp_path / "again")
    output, _ = call("train", "--resume", tmp_path / "again", "--precision", "float32", "--iterations", "99")
    assert "--precision: float32 from here on; the run had bf16" in output
    assert losses(tmp_path / "again")[-1] != losses(tmp_path / "run")[-1]


def test_other_products_of_bf16_are_other_bits(data, tmp_path, monkeypatch):
    words = arguments(data, tmp_path / "run", *FIRST, *BF16, "--iterations", "2")
    call("train", *words)
    expected = json.loads((tmp_path / "run" / "run.json").read_text())["versions"]["products"]
    monkeypatch.setattr(prepare, "has_bf16", lambda: expected != "AVX512-BF16")
    _, errors = call("train", "--resume", tmp_path / "run", status=2)
    found = "float32 FMAs" if expected == "AVX512-BF16" else "AVX512-BF16"
    assert (
        f"would go on with other bits: the CPU's products of bf16: found {found}, expected {expected}; --allow"
        in errors
    )
    call("train", "--resume", tmp_path / "run", "--precision", "float32", "--iterations", "1")


@pytest.mark.parametrize("reproducible", [False, True])
def test_ranks_on_different_cpus(reproducible):
    here, there = ({"instructions": "avx512f", "products": text} for text in ("AVX512-BF16", "float32 FMAs"))
    said = {"the CPU's instruction set": "avx512f", "the CPU's products of bf16": "float32 FMAs"}
    world = SimpleNamespace(rank=0, host="a", bcast=lambda facts: facts,
                            allgather=lambda own: [own, b"" if isinstance(own, bytes) else ("b", said)])  # fmt: skip
    if not reproducible:
        assert agree_on_cpus(world, here, False) == [
            "hosts with different CPUs: avx512f, AVX512-BF16 on a; avx512f, float32 FMAs on b: their bits differ from "
            "those of equal hosts"
        ]
        assert agree_on_cpus(SimpleNamespace(host="a", allgather=lambda own: [own, own]), there, False) == []
        return
    line = "rank 1 on b: the CPU's products of bf16 is float32 FMAs, rank 0 has AVX512-BF16"
    with pytest.raises(AgreedError) as raised:
        agree_on_cpus(world, here, True)
    assert raised.value.line == line


def test_ranks_change_no_bit(data, tmp_path, on_ranks):
    every = arguments(data, tmp_path / "one", *FIRST, *BF16, "--reproducible", "--threads", "1")
    call("train", *every)
    call("train", *arguments(data, tmp_path / "threads", *FIRST, *BF16, "--reproducible", "--threads", "2"))
    on_ranks(2).call("train", *arguments(data, tmp_path / "two", *FIRST, *BF16, "--reproducible", "--threads", "1"))
    for other in ("threads", "two"):
        assert np.array_equal(losses(tmp_path / "one"), losses(tmp_path / other))


def test_evaluation_is_in_the_precision_of_the_run_or_in_another(data, whole):
    found, said = {}, {}
    for precision in ((), BF16, ("--precision", "float32")):
        output, errors = call("evaluate", "--weights", whole[0], "--data", data / "val", "--json", *precision)
        found[precision] = json.loads(output)["loss"]
        (said[precision],) = [line for line in errors.splitlines() if line.startswith("evaluated")]
    assert said == {(): "evaluated in bf16", BF16: "evaluated in bf16",
                    ("--precision", "float32"): "evaluated in float32; trained in bf16 (--precision)"}  # fmt: skip
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
