"""Buckets of gradients: what travels when, that all arrive, and what an error on the way does."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from kernels import naive
from mpi.reducer import Reducer
from nptrain.data.loader import Batch
from nptrain.errors import TrainingError
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.reduction.buckets import Buckets, StepTimer
from nptrain.reduction.compressed_sum import CompressedSum
from nptrain.reduction.plain_sum import PlainSum, sum_buffer
from nptrain.step import Reduction, train_step
from nptrain.world import ImmediateReducer, Solo


class Recorded(PlainSum):
    """A sum that notes what it is asked, and does `action` where it would travel."""

    def __init__(self, gradients, terms=1, action=lambda part: None):
        super().__init__(Solo(), naive, gradients, terms)
        self.added, self.summed, self.action = [], [], action

    def add(self, worker, part):
        super().add(worker, part)
        self.added.append((worker, part))

    def total(self, part):
        self.summed.append(part)
        self.action(part)


def arrived(buckets):
    return list(buckets.wait_into_gradients())


def test_buckets_fill_from_the_end_and_cover_all():
    sums = Recorded(np.arange(100, dtype=np.float32))
    with Reducer() as reducer:
        buckets = Buckets(sums, reducer, bucket_bytes=4 * 30)
        for offset in (90, 65, 60, 20, 5, 0):
            buckets.mark_ready(offset, worker=7)
        parts = arrived(buckets)
    assert parts == [slice(65, 100), slice(20, 65), slice(0, 20)]
    assert parts == sums.summed
    assert sums.added == [(7, part) for part in parts]
    assert [pending.nbytes for pending in buckets.pending] == [4 * 35, 4 * 45, 4 * 20]


def test_a_rank_without_workers_adds_nothing_and_sends_all():
    sums = Recorded(np.zeros(10, np.float32))
    buckets = Buckets(sums, ImmediateReducer(), bucket_bytes=1)
    for offset in (5, 0):
        buckets.mark_ready(offset)
    assert arrived(buckets) == sums.summed == [slice(5, 10), slice(0, 5)]
    assert sums.added == []


def test_compressed_gradients_are_two_bytes_and_statistics_as_they_are():
    sums = CompressedSum(Solo(), naive, np.zeros(40), terms=1, size=32)
    buckets = Buckets(sums, ImmediateReducer(), bucket_bytes=8 * 30)
    for offset in (25, 10, 0):
        buckets.mark_ready(offset)
    assert arrived(buckets) == [slice(10, 40), slice(0, 10)]  # sizes of buckets are those of the array
    assert [pending.nbytes for pending in buckets.pending] == [22 * 2 + 8 * 8, 10 * 2]


def test_sums_come_back_into_the_gradients():
    gradients = np.zeros(40, np.float32)
    assert sum_buffer(gradients, 2) is gradients
    sums = Recorded(gradients, terms=3)
    assert sums.sums.dtype == np.float64
    sums.sums[:] = np.arange(40)
    buckets = Buckets(sums, ImmediateReducer(), bucket_bytes=1)
    for offset in (25, 0):
        buckets.mark_ready(offset)
    for part in buckets.wait_into_gradients():
        assert (gradients[part] == np.arange(40)[part]).all()
    assert (gradients == np.arange(40)).all()


def test_they_travel_while_others_are_computed():
    """Every bucket but the last is there before the backward pass ends: nothing but the last is waited for."""
    values, there, last = np.ones(40, np.float32), threading.Event(), threading.Event()

    def travel(part):
        values[part] *= 2
        if part.start == 0:
            assert last.wait(10)
        elif part.start == 10:
            there.set()

    sums, timer = Recorded(values, action=travel), StepTimer()
    with Reducer() as reducer:
        buckets = Buckets(sums, reducer, bucket_bytes=1)
        for offset in (30, 20, 10, 0):
            buckets.mark_ready(offset)
        assert there.wait(10)  # they are on their way while this thread computes
        timer.mark("backward")
        assert all(pending.ended_at for _, pending in buckets.buckets[:3])
        last.set()
        slow = buckets.start(24, threading.Event().wait, 0.05)  # the loss of a slow rank
        slow.result()
        for part in buckets.wait_into_gradients():
            assert (values[part] == 2).all()
        timer.mark("update")
        result = timer.result(buckets)
    assert result["communication_s"] == pytest.approx(buckets.busy_s)
    assert result["gradient_wait_s"] == pytest.approx(sum(wait[5] - wait[4] for wait in result["sums"]))
    assert 0 <= result["hidden"] <= 1


@pytest.mark.parametrize(("busy", "waited", "hidden"), [(2.0, 0.5, 0.75), (2.0, 3.0, 0.0), (0.0005, 0.0005, 1.0)])
def test_the_share_that_is_hidden(busy, waited, hidden):
    timer = StepTimer()
    timer.mark("update")
    buckets = SimpleNamespace(busy_s=busy, waited_s=waited, pending=[])
    assert timer.result(buckets)["hidden"] == hidden


def test_two_threads_let_two_buckets_travel_at_once():
    both = threading.Barrier(2, timeout=10)
    with Reducer([(), ()]) as reducer:
        buckets = Buckets(Recorded(np.zeros(40, np.float32), action=lambda part: both.wait()), reducer, bucket_bytes=1)
        for offset in (30, 20, 10, 0):
            buckets.mark_ready(offset)
        assert len(arrived(buckets)) == 4
    times = ((1.0, 3.0), (1.5, 2.0), (2.5, 4.0), (5.0, 6.0))
    buckets.pending = [SimpleNamespace(started_at=start, ended_at=end) for start, end in times]
    assert buckets.busy_s == 4.0  # what two do at once counts once


@pytest.mark.parametrize("reducer", [Reducer, ImmediateReducer])
def test_an_error_on_the_way_surfaces(reducer):
    def fail(part):
        raise OSError("the network is down")

    with reducer() as started:
        buckets = Buckets(Recorded(np.zeros(10, np.float32), action=fail), started, bucket_bytes=1)
        buckets.mark_ready(0)
        with pytest.raises(OSError, match="network is down"):
            arrived(buckets)


def test_nothing_is_left_on_its_way_where_the_loss_is_not_finite():
    """Each sum here begins when it is waited for. On ranks, one that others had left would never end."""
    recipe = override(get_recipe("digits"), ["depth=18", "width=16"])
    network, labels = ResNet.of(recipe, naive), np.zeros(2, np.int64)
    network.arena.weights[:] = np.nan
    sums, late = Recorded(network.arena.gradients), SimpleNamespace()
    late.start = lambda action, *args: SimpleNamespace(result=lambda: action(*args))
    reduction = Reduction(Solo(), range(1), sums, late, bucket_bytes=1)
    batches = iter([Batch(np.zeros((2, 3, 32, 32), np.uint8), labels)])
    with pytest.raises(TrainingError, match="phase 1, iteration 0: the loss is nan"):
        train_step(network, recipe, recipe.phases[0], 0, batches, reduction)
    assert sums.summed == [part for _, part in sums.added]
    assert sums.summed[-1].start == 0
