"""bin/bench on several ranks: the data-parallel step and the sums of gradients by size of bucket."""

import json
from importlib.util import find_spec

import pytest
from commands import call, run

from kernels import fast
from nptrain.bench import allreduce, parallel
from nptrain.world import Solo

SMALL = ["--batch", "2", "--crop-size", "32", "--repeats", "1", "--json"]


def test_a_step_of_several_ranks(on_ranks):
    count = 3  # which send float64
    result = json.loads(on_ranks(count).call("bench", "step", *SMALL))
    sent, kept = result["rows"]
    assert (result["ranks"], result["value_bytes"]) == (count, 8)
    assert result["efficiency"] == pytest.approx(kept["ms"] / sent["ms"])
    for row in (sent, kept):
        assert row["images_per_s"] == pytest.approx(2000 * count / row["ms"])
    assert result["rank_images_per_s"] * count >= kept["images_per_s"] * (1 - 1e-9)  # that of the slowest


def test_sums_by_size_of_bucket(on_ranks):
    result = json.loads(on_ranks(2).call("bench", "allreduce", *SMALL, "--bucket-mib", "1,16", "--bucket-mib", "all"))
    assert result["gradients_mb"] == pytest.approx(102.5, abs=0.1)
    assert [row["bucket_mib"] for row in result["sums"]] == ["1", "16", "all"]
    assert [row["bucket_mib"] for row in result["steps"]] == ["1", "16", "all"]
    buckets = [row["buckets"] for row in result["sums"]]
    assert buckets[0] > buckets[1] > buckets[2] == 1
    for row in result["sums"]:
        assert row["gb_per_s"] == row["bus_gb_per_s"] == pytest.approx(result["gradients_mb"] / row["sum_ms"])
        assert row["bucket_ms"] <= row["sum_ms"] * (1 + 1e-9)
    for row, alone in zip(result["steps"], result["sums"], strict=True):
        assert row["exposed_ms"] == pytest.approx(max(0, row["step_ms"] - result["alone_ms"]))
        assert row["hidden"] == pytest.approx(max(0, 1 - row["exposed_ms"] / alone["sum_ms"]))
    assert result["best_bucket_mib"] in ("1", "16", "all")
    assert result["one_value_ms"] < min(row["sum_ms"] for row in result["sums"])


def test_a_rank_alone_sends_nothing_and_says_so():
    ops = fast.configured(precision="bf16")
    result = allreduce.measure(Solo(), 2, 32, 1, [float("inf")], ops=ops, precision="bf16")
    assert result["precision"] == "bf16"
    assert result["sent"] == "nothing: there is one rank"
    assert "best_bucket_mib" not in result
    assert result["steps"][0]["hidden"] is None
    assert result["sums"][0]["gb_per_s"] is None


def test_the_step_it_measures_is_the_trainers():
    """Two of them end with the same weights, in buckets of any size, sent or not: a rank alone has nothing to add."""
    found = []
    with Solo().reducer() as reducer:
        for size, value_bytes, send in ((1, 4, True), (1 << 30, 8, True), (1 << 20, 4, False)):
            work = parallel.ParallelWork(Solo(), reducer, 2, 32, value_bytes)
            before = work.network.arena.weights.copy()
            ((took, waited),) = work(size, send)
            assert took > waited >= 0
            assert (work.network.arena.weights != before).any()
            found.append(work.network.arena.weights.tobytes())
    assert found[0] == found[1] == found[2]


def test_the_best_size_is_the_fastest_or_of_equals_the_one_that_waits_least():
    rows = [{"bucket_mib": "1", "step_ms": 100.0, "waited_ms": 9.0}, {"bucket_mib": "4", "step_ms": 101.0,
             "waited_ms": 2.0}, {"bucket_mib": "16", "step_ms": 110.0, "waited_ms": 0.0}]  # fmt: skip
    found = {"1": [[(0.098, 0)], [(0.1, 0)], [(0.103, 0)]]}
    assert allreduce.best(rows, found) == {"noise_ms": pytest.approx(2.0), "best_bucket_mib": "4"}
    found = {"1": [[(0.1, 0)]] * 3}
    assert allreduce.best(rows, found) == {"noise_ms": pytest.approx(0), "best_bucket_mib": "1"}


@pytest.mark.ranks
def test_a_mistake_is_one_line_of_all_ranks():
    _, errors = run("bench", "kernels", ranks=2, status=2, timeout=60)
    line = "bench: kernels: found 2 ranks, expected one: only step and allreduce run on several"
    assert errors.splitlines()[0] == line
    assert errors.count("bench: ") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["allreduce", "--bucket-mib", "1,0"], "--bucket-mib: found '0', expected more than 0, or all"),
        (["step", "--against", "torch"], "--against torch: PyTorch is not installed"),
    ],
)
def test_mistakes_are_one_line(arguments, line):
    if "torch" in arguments and find_spec("torch"):
        pytest.skip("needs an environment without PyTorch")
    _, errors = call("bench", *arguments, status=2)
    assert errors.startswith(f"bench: {line}")
    assert errors.count("\n") == 1


@pytest.mark.ranks
def test_a_wrong_flag_of_a_sub_command_ends_all_ranks():
    _, errors = run("bench", "step", "--no-such-flag", ranks=2, status=2)
    assert errors.count("bench: unrecognized arguments: --no-such-flag") == 1


def test_against_torch_on_two_ranks(on_ranks):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    output = on_ranks(2).call("bench", "step", *SMALL, "--against", "torch", "--mode", "eager")
    ours, theirs = json.loads(output)["against"]
    assert (ours["program"], theirs["program"]) == ("nptrain", "torch eager")
    assert theirs["images_per_s"] == pytest.approx(2 * 2000 / theirs["ms"])
