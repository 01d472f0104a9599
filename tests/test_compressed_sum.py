"""Gradients as bf16: rounding and what it leaves, error feedback both ways, ranks, resuming."""

import shutil
from threading import Barrier, Thread

import numpy as np
import pytest
from commands import call, run
from short_runs import arguments, metrics

from kernels import fast, naive
from nptrain.reduction.compressed_sum import CompressedSum

ALL = np.arange(1 << 16, dtype=np.uint32) << 16  # every bf16, as the words of float32
EDGES = np.array([0, -0.0, 1e-45, -1e-45, 1e-40, 1.17549435e-38, 3.3895314e38, 3.39e38, -3.4e38, 3.4028235e38,
                  np.inf, -np.inf, np.nan, -np.nan], np.float32)  # fmt: skip


def ulp(values):
    """The last place of bf16 at each value."""
    return np.exp2(np.floor(np.log2(np.abs(values))) - 7)


def split(ops, values):
    """(bits, rest) of values, which stay."""
    rest, bits = values.copy(), np.empty(values.size, np.uint16)
    ops.bf16_split(rest, bits)
    return bits, rest


def decoded(bits):
    total = np.zeros(bits.size)
    naive.bf16_add_into(total, bits)
    return total


def samples():
    """Floats of all magnitudes, all bf16 with their neighbours, and what lies half-way between them."""
    rng = np.random.default_rng(0)
    words = [ALL + np.uint32(step) for step in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    words.append(rng.integers(0, 1 << 32, 100_000, np.uint32))
    return np.concatenate([EDGES, *(w.view(np.float32) for w in words)])


def test_naive_rounds_to_the_nearest_of_all():
    values = samples()
    finite = np.sort(np.unique(ALL.view(np.float32)[np.isfinite(ALL.view(np.float32))])).astype(np.float64)
    grid = np.concatenate([[-(2.0**128)], finite, [2.0**128]])  # inf stands where the next number would
    bits, rest = split(naive, values)
    got = np.clip(decoded(bits), -(2.0**128), 2.0**128)
    with np.errstate(invalid="ignore"):  # some NaN signal
        exact, number = np.clip(values.astype(np.float64), -(2.0**128), 2.0**128), ~np.isnan(values)
    at = np.clip(np.searchsorted(grid, exact[number]), 1, grid.size - 1)
    below, above = exact[number] - grid[at - 1], grid[at] - exact[number]
    off = np.abs(got[number] - exact[number])
    assert np.array_equal(off, np.minimum(below, above))
    assert (bits[number][below == above] % 2 == 0).all()  # ties
    assert np.isnan(got[~number]).all()
    arrives = np.isfinite(decoded(bits))
    assert np.array_equal(got[arrives] + rest[arrives], exact[arrives])
    assert (rest[~arrives] == 0).all()
    assert np.array_equal(bits >> 15, np.signbit(values))  # of zeros and NaN, too


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1001, None])
def test_fast_is_naive_to_the_bit(size):
    values = samples()[:size]
    bits, rest = split(fast, values)
    expected, expected_rest = split(naive, values)
    assert np.array_equal(bits, expected)
    assert rest.tobytes() == expected_rest.tobytes()
    for dtype in (np.float32, np.float64):
        ours, theirs = (np.full(bits.size, 0.1, dtype) for _ in range(2))
        fast.bf16_add_into(ours, bits)
        naive.bf16_add_into(theirs, bits)
        assert np.array_equal(ours, theirs, equal_nan=True)


def test_kernels_refuse_other_arrays():
    four = np.zeros(4, np.float32)
    for mistake in (
        lambda: fast.bf16_split(np.zeros(4), np.zeros(4, np.uint16)),
        lambda: fast.bf16_split(four, np.zeros(4, np.int16)),
        lambda: fast.bf16_split(four, np.zeros(3, np.uint16)),
        lambda: fast.bf16_add_into(np.zeros(4, np.int64), np.zeros(4, np.uint16)),
    ):
        with pytest.raises(ValueError, match="expected"):
            mistake()


class Rank:
    """One of several ranks that are threads here."""

    def __init__(self, rank, size, meeting, table):
        self.rank, self.size, self.meeting, self.table = rank, size, meeting, table
        self.sent = set()  # dtypes

    def allreduce_by(self, mine, counts, function, out):
        assert counts == [1] * self.size
        self.sent.add(out.dtype)
        bounds = [out.size * rank // self.size for rank in range(self.size + 1)]
        arrays = self._all(mine[0])
        pieces = self._all(function([array[bounds[self.rank] : bounds[self.rank + 1]] for array in arrays]))
        out[:] = np.concatenate(pieces)

    def allreduce(self, array):
        array[:] = sum(self._all(array))

    def _all(self, array):
        self.table[self.rank] = array.copy()
        self.meeting.wait()
        found = list(self.table)
        self.meeting.wait()
        return found


def on_ranks(count, body):
    """body(world) on so many ranks; returns what each gave."""
    meeting, table, results = Barrier(count), [None] * count, [None] * count

    def run(rank):
        results[rank] = body(Rank(rank, count, meeting, table))

    threads = [Thread(target=run, args=(rank,)) for rank in range(count)]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    return results


@pytest.mark.parametrize(("ops", "dtype"), [(fast, np.float32), (naive, np.float32), (naive, np.float64)])
@pytest.mark.parametrize("count", [2, 3])
def test_with_error_feedback_nothing_is_lost(ops, dtype, count):
    """The same gradients in every step: all that arrived is all that was sent, but for what is still on its way."""
    steps, size, tail = 300, 1001, 5
    values = np.random.default_rng(count).uniform(0.01, 1, (count, size + tail)).astype(dtype)
    parts = [slice(400, size + tail), slice(0, 400)]

    def train(world):
        sums = np.empty(size + tail, dtype)
        compressed, arrived, forgetful = CompressedSum(world, ops, sums, 1, size), 0, 0
        for _ in range(steps):
            sums[:] = values[world.rank]
            [compressed.total(part) for part in parts]
            arrived = arrived + sums.astype(np.float64)
        for _ in range(steps):
            sums[:] = values[world.rank]
            [compressed.total(part) for part in parts]
            forgetful = forgetful + sums.astype(np.float64)
            compressed.forget()
        assert world.sent == {np.dtype(np.uint16)}
        return arrived, forgetful

    results = on_ranks(count, train)
    for arrived, forgetful in results[1:]:
        assert np.array_equal(arrived, results[0][0])
        assert np.array_equal(forgetful, results[0][1])
    arrived, forgetful = results[0]
    exact = values.astype(np.float64).sum(axis=0)
    assert np.allclose(arrived[size:], steps * exact[size:], rtol=1e-6)  # what rides along is not rounded
    lost, without = (np.abs(a[:size] - steps * exact[:size]) for a in (arrived, forgetful))
    # half a last place for every rounding on the way, of twice the value: with what was kept back it may be larger
    bound = (ulp(2 * exact) + ulp(2 * values).sum(axis=0))[:size] / 2
    assert (lost <= bound).all()
    assert np.median(without) > 10 * np.median(bound)


def test_what_is_not_finite_arrives_everywhere():
    def train(world):
        sums = np.ones(64, np.float32)
        compressed = CompressedSum(world, fast, sums, 1, 64)
        if world.rank == 1:
            sums[[3, 40, 50]] = np.nan, np.inf, 3.4e38
        compressed.total(slice(0, 64))
        first = sums.copy()
        sums[:] = 1
        compressed.total(slice(0, 64))
        return first, sums

    for sums, after in on_ranks(3, train):
        assert np.isnan(sums[3])
        assert np.isposinf(sums[[40, 50]]).all()
        assert (np.delete(sums, [3, 40, 50]) == 3).all()
        assert (after == 3).all()


STEPS = ["--phase", "1", "--set", "1.snapshot=3", "--set", "1.base_lr=0.0002", "--set", "1.warmup_iter=0",
         "--workers", "4", "--batch-size", "8", "--iterations", "5"]  # fmt: skip
BF16 = ["--compress", "bf16", "--bucket-mib", "0.5"]


def training(data, folder, *words):
    return ["train", *arguments(data, folder, *STEPS, *words)]


def losses(folder):
    return [entry["loss"] for entry in metrics(folder) if "loss" in entry]


def saved(folder, iteration):
    """The bytes of a checkpoint."""
    names = (f"phase1_iter_{iteration}.{kind}" for kind in ("caffemodel", "solverstate"))
    return [(folder / "checkpoints" / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def two_ranks(data, on_ranks, tmp_path_factory):
    """The folder of a run on two ranks whose gradients travel as bf16."""
    folder = tmp_path_factory.mktemp("two") / "run"
    on_ranks(2).call(*training(data, folder, *BF16))
    return folder


def test_two_ranks_resume_bit_for_bit(data, tmp_path, on_ranks, two_ranks):
    folder = shutil.copytree(two_ranks, tmp_path / "run")
    (folder / "checkpoints" / "phase1_iter_5.json").unlink()  # as if it was killed before that one
    on_ranks(2).call(*training(data, folder, *BF16, "--resume"))
    assert metrics(folder) == metrics(two_ranks)
    assert saved(folder, 5) == saved(two_ranks, 5)


def test_losses_are_near_those_without_and_one_rank_alone_rounds_nothing(data, tmp_path, on_ranks, two_ranks):
    on_ranks(2).call(*training(data, tmp_path / "plain"))
    call(*training(data, tmp_path / "alone", *BF16, "--iterations", "2"))
    found, plain, alone = (losses(folder) for folder in (two_ranks, tmp_path / "plain", tmp_path / "alone"))
    assert found[0] == plain[0]
    assert found == pytest.approx(plain, rel=1e-3)
    assert abs(alone[1] - plain[1]) < 0.1 * abs(found[1] - plain[1])


def test_ranks_without_workers_and_plain_kernels_in_float64(data, tmp_path, on_ranks):
    few = [*BF16, "--workers", "2", "--batch-size", "4", "--iterations", "2"]
    on_ranks(3).call(*training(data, tmp_path / "three", *few))
    on_ranks(2).call(*training(data, tmp_path / "two", *few, "--kernels", "numpy", "--dtype", "float64"))
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "two"), rel=1e-3)


def test_gradients_that_are_not_finite_end_the_run_with_its_line(data, tmp_path):
    words = training(data, tmp_path / "run", "--workers", "2", *BF16, "--set", "1.base_lr=1e30")
    _, errors = run(*words, ranks=2, status=1)
    assert "the loss is " in errors.splitlines()[0]
    assert "Warning" not in errors


def test_refusals(data, tmp_path):
    words = arguments(data, tmp_path / "run", "--reproducible")
    _, errors = call("train", *words, "--compress", "bf16", status=2)
    assert errors == "train: --compress: found bf16 together with --reproducible, expected one of them\n"
    _, errors = call("train", *words, "--compress", "fp16", status=2)
    assert "argument --compress: invalid choice: 'fp16'" in errors
