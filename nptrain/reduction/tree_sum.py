"""Sums over workers in an order of their own: the same bits on any number of ranks.

Workers 0 .. n - 1 are the leaves of a binary tree that n alone decides. A rank carries consecutive workers; it adds up
the subtrees that lie whole within its range, and ranks exchange those sums and add what is above, as the tree says.
"""

import numpy as np


def halves(lo, hi):
    """Where a node of workers lo .. hi - 1 is divided: its left child is the largest whole power of two."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def cover(lo, hi, workers):
    """The largest nodes below (lo, hi) that lie within a range of workers, from left to right."""
    if workers.start <= lo and hi <= workers.stop:
        return [(lo, hi)]
    if hi <= workers.start or workers.stop <= lo:
        return []
    middle = halves(lo, hi)
    return cover(lo, middle, workers) + cover(middle, hi, workers)


def combine(lo, hi, sums):
    """The sum of a node from those of nodes that cover it, {(lo, hi): array}."""
    if (lo, hi) in sums:
        return sums[lo, hi]
    middle = halves(lo, hi)
    return combine(lo, middle, sums) + combine(middle, hi, sums)


def round_for_exact_sum(loss):
    """A loss rounded to a multiple of 2**-31: the sum of such numbers is exact below 2**22, whatever its order."""
    return loss + 2.0**21 - 2.0**21


class TreeSum:
    """A `gradient_sum.GradientSum` in the order of the tree.

    world      `nptrain.world.World`
    gradients  the flat array to which a backward pass adds
    workers    in all           ranges     each rank's range of them
    partial    the sums of this rank's subtrees so far, by their first worker, whose left descendants had them before
    """

    def __init__(self, world, gradients, workers, ranges):
        self.world, self.gradients, self.sums = world, gradients, gradients
        self.workers, self.own_workers = workers, ranges[world.rank]
        self.nodes = [cover(0, workers, rank_range) if len(rank_range) else [] for rank_range in ranges]
        self.partial, self._free = {}, []

    def begin_step(self):
        """Nothing is added up yet; the memory of the step before is used again."""
        self._free += self.partial.values()
        self.partial = {}

    def begin_worker(self):
        """The next backward passes are another worker's."""
        self.gradients[:] = 0

    def add(self, worker, part):
        """Take in a part of a worker's gradients; workers come in order, whole but for the last."""
        self._array(worker)[part] = self.gradients[part]
        for lo, hi, middle in self._above(worker):
            if (
                worker != hi - 1 or lo < self.own_workers.start
            ):  # the right child is not complete, or the left another rank's
                break
            self.partial[lo][part] += self.partial[middle][part]
            if worker != self.own_workers[-1]:
                self._free.append(self.partial.pop(middle))

    def round_loss(self, loss):
        """A batch's loss, as it is to be added up over workers and ranks."""
        return round_for_exact_sum(loss)

    def total(self, part):
        """sums[part] = the sum over all workers, of all ranks; what this rank holds must be complete there."""
        mine = [self.partial[lo][part] for lo, _ in self.nodes[self.world.rank]]
        names = [node for nodes in self.nodes for node in nodes]
        counts = [len(nodes) for nodes in self.nodes]

        def add_above(sums):
            return combine(0, self.workers, dict(zip(names, sums, strict=True)))

        self.world.allreduce_by(mine, counts, add_above, self.sums[part])

    def deliver(self, part):
        """The sums are in the gradients already."""

    def forget(self):
        """Nothing is kept from one step to the next."""

    def wire_bytes(self, part):
        """Bytes of a part as it travels."""
        return (part.stop - part.start) * self.sums.itemsize

    def _array(self, worker):
        if worker not in self.partial:
            self.partial[worker] = self._free.pop() if self._free else np.empty_like(self.gradients)
        return self.partial[worker]

    def _above(self, worker):
        """(lo, hi, middle) of the nodes above a worker in which it is in the right child, from the leaf up; ends where
        it is in a left one.
        """
        path, lo, hi = [], 0, self.workers
        while hi - lo > 1:
            middle = halves(lo, hi)
            path.append((lo, hi, middle))
            lo, hi = (middle, hi) if worker >= middle else (lo, middle)
        for lo, hi, middle in reversed(path):
            if worker < middle:
                return
            yield lo, hi, middle
