"""Sums over workers: the same bits however the workers are shared out, and the tree's own order."""

from threading import Barrier, Thread

import numpy as np
import pytest

from nptrain.reduction.tree_sum import TreeSum, cover
from nptrain.step import worker_range


class Rank:
    """One of several ranks that are threads here; `allreduce_by` is defined by all of it on every rank."""

    def __init__(self, rank, size, meeting, table):
        self.rank, self.size, self.meeting, self.table = rank, size, meeting, table

    def allreduce_by(self, mine, counts, function, out):
        assert len(mine) == counts[self.rank]
        self.table[self.rank] = [array.copy() for array in mine]
        self.meeting.wait()
        out[:] = function([array for arrays in self.table for array in arrays])
        self.meeting.wait()


def summed(values, ranks):
    """What every one of `ranks` ranks gets, summing in two parts, twice in the same buffers."""
    workers, size = values.shape
    ranges = [worker_range(workers, rank, ranks) for rank in range(ranks)]
    meeting, table, results = Barrier(ranks), [None] * ranks, [np.empty(size, np.float32) for _ in range(ranks)]

    def run(rank):
        gradients = results[rank]
        tree = TreeSum(Rank(rank, ranks, meeting, table), gradients, workers, ranges)
        for _ in range(2):
            tree.begin_step()
            for worker in ranges[rank]:
                tree.begin_worker()
                gradients += values[worker]  # as a backward pass adds
                if worker != ranges[rank][-1]:
                    tree.add(worker, slice(0, size))
            for part in (slice(size // 2, size), slice(0, size // 2)):
                if ranges[rank]:
                    tree.add(ranges[rank][-1], part)
                tree.total(part)

    threads = [Thread(target=run, args=(rank,)) for rank in range(ranks)]
    [thread.start() for thread in threads]
    [thread.join(10) for thread in threads]
    return results


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 6, 8, 13])
def test_any_number_of_ranks_gives_the_same_bits(workers):
    values = np.random.default_rng(workers).standard_normal((workers, 1001)).astype(np.float32)
    (alone,) = summed(values, 1)
    assert np.abs(alone - values.astype(np.float64).sum(axis=0)).max() < 1e-5
    for ranks in (2, 3, 4, 7):
        assert all(np.array_equal(result, alone) for result in summed(values, ranks)), ranks


def test_the_tree_by_hand():
    assert cover(0, 6, range(0, 6)) == [(0, 6)]
    assert cover(0, 6, range(1, 5)) == [(1, 2), (2, 4), (4, 5)]
    values = np.array([[1e8], [1.0], [-1e8], [1.0]], np.float32)  # ((a + b) + (c + d)): each 1 is lost
    assert summed(values, 2)[0] == 0
    assert values.sum(dtype=np.float32) == 1
