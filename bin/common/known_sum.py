"""A sum over all ranks whose result is known, before a run begins: a wrong network or MPI library shows at once."""

import numpy as np

from mpi.agree import raise_together
from nptrain.errors import InputError

PERIOD = 61  # of the numbers that are added: whole, and so small that float32 gives their exact sum in any order
MOST = 16 << 20  # bytes of them


def expect_known_sum(world, nbytes, itemsize):
    """Raise AgreedError, naming a rank, unless a sum over all ranks of `nbytes` bytes of floats (MOST at most) is right
    by both ways in which gradients are summed, and on a thread of a reducer, as in a step. All ranks call it.

    itemsize  4 or 8 bytes, of a float
    """
    if world.size == 1:
        return
    count, dtype = max(1, min(nbytes, MOST) // itemsize), np.dtype(f"f{itemsize}")
    mine = _numbers(world.rank, count).astype(dtype)
    reduced, gathered = mine.copy(), np.empty_like(mine)
    with world.reducer() as reducer:
        reducer.start(world.allreduce, reduced).result()
        how = ([mine], [1] * world.size, lambda arrays: np.sum(arrays, axis=0, dtype=dtype), gathered)
        reducer.start(world.allreduce_by, *how).result()
    expected = np.resize(sum(_numbers(rank, PERIOD) for rank in range(world.size)), count)
    with raise_together(world, InputError):
        for way, found in (("allreduce", reduced), ("alltoall and allgather", gathered)):
            if (found != expected).any():
                at = int((found != expected).argmax())
                raise InputError(f"a sum over {world.size} ranks is wrong ({way}): number {at} of {count} is "
                                 f"{found[at]:g}, expected {expected[at]}: the network or the MPI library "
                                 f"({world.library}) is at fault")  # fmt: skip


def _numbers(rank, count):
    return (7 * rank + np.arange(count)) % PERIOD
