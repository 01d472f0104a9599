"""Sums over workers in an order of their own: the same bits on any number of ranks.

Workers 0 .. n - 1 are the leaves of a binary tree that n alone decides. A rank carries consecutive workers; it adds up
the subtrees that lie whole within its share, and ranks exchange those sums and add what is above, as the tree says.
"""

import numpy as np


def halves(lo, hi):
    """Where a node of workers lo .. hi - 1 is divided: its left child is the largest whole power of two."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def cover(lo, hi, share):
    """The largest nodes below (lo, hi) that lie within a share, a range of workers, from left to right."""
    if share.start <= lo and hi <= share.stop:
        return [(lo, hi)]
    if hi <= share.start or share.stop <= lo:
        return []
    middle = halves(lo, hi)
    return cover(lo, middle, share) + cover(middle, hi, share)


def combine(lo, hi, sums):
    """The sum of a node from those of nodes that cover it, {(lo, hi): array}."""
    if (lo, hi) in sums:
        return sums[lo, hi]
    middle = halves(lo, hi)
    return combine(lo, middle, sums) + combine(middle, hi, sums)


def in_any_order(loss):
    """A loss rounded to a multiple of 2**-31: the sum of such numbers is exact below 2**22, whatever its order."""
    return loss + 2.0**21 - 2.0**21


class OrderedSum:
    """The sums of one rank's subtrees, as its workers' gradients come in.

    workers   in all                     shares   each rank's range of them
    world     whose `combine` adds the subtrees of all ranks
    """

    def __init__(self, workers, shares, world, size, dtype):
        self.workers, self.mine, self.world, self.size, self.dtype = workers, shares[world.rank], world, size, dtype
        self.nodes = [cover(0, workers, share) if len(share) else [] for share in shares]
        self.held, self.free = {}, []  # a node's sum by its first worker, whose left descendants had it before

    def add(self, worker, values, part):
        """Take in a part (a slice) of a worker's values; workers come in order, whole but for the last."""
        self._array(worker)[part] = values[part]
        for lo, hi, middle in self._above(worker):
            if worker != hi - 1 or lo < self.mine.start:  # the right child is not complete, or the left another rank's
                break
            self.held[lo][part] += self.held[middle][part]
            if worker != self.mine[-1]:
                self.free.append(self.held.pop(middle))

    def total(self, out, part):
        """out[part] = the sum over all workers, of all ranks; what this rank holds must be complete there."""
        mine = [self.held[lo][part] for lo, _ in self.nodes[self.world.rank]]
        names = [node for nodes in self.nodes for node in nodes]
        counts = [len(nodes) for nodes in self.nodes]
        self.world.combine(mine, counts, lambda sums: combine(0, self.workers, dict(zip(names, sums, strict=True))),
                           out[part])  # fmt: skip

    def clear(self):
        """Forget what was added; its memory is used again."""
        self.free += self.held.values()
        self.held = {}

    def _array(self, worker):
        if worker not in self.held:
            self.held[worker] = self.free.pop() if self.free else np.empty(self.size, self.dtype)
        return self.held[worker]

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
