"""Sums of gradients over ranks in half the bytes: bfloat16 on the way, and nothing lost for good.

A bf16 has float32's range and 8 bits of its precision. What rounding takes from a value is kept where it was rounded
and goes along with the next iteration's: error feedback (Seide et al., 1-bit stochastic gradient descent, Interspeech
2014; Karimireddy et al., arXiv 1901.09847), on the way out and on the way home (Tang et al., DoubleSqueeze,
arXiv 1905.05957).
"""

import numpy as np

WIRE_BYTES = 2  # of a gradient on its way


class CompressedSum:
    """The sums of one rank's gradients with those of all others, and what rounding has kept back of them.

    world   rank, size, sum, combine          ops     the kernels, `fast` or `naive`
    size    of the gradients: what lies behind them in a flat array is summed as it is
    dtype   of what is kept back, and of sums on the rank that takes them
    """

    def __init__(self, world, ops, size, dtype):
        self.world, self.ops = world, ops
        self.unsent = np.zeros(size, dtype)  # of this rank's own gradients
        self.owed = {}  # of the sums that this rank takes, by where their part begins

    def total(self, sums, part):
        """sums[part] = its sum over ranks, the same bits on all. The parts of every iteration are the same."""
        gradients = slice(part.start, min(part.stop, self.unsent.size))
        self.world.sum(sums[gradients.stop : part.stop])
        unsent, values = self.unsent[gradients], sums[gradients]
        with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN go their way
            unsent += values
        mine, home = (np.empty(values.size, np.uint16) for _ in range(2))
        self.ops.bf16_split(unsent, mine)
        self.world.combine([mine], [1] * self.world.size, lambda arrays: self._add(part.start, arrays), home)
        values[:] = 0
        self.ops.bf16_add_into(values, home)

    def _add(self, start, arrays):
        """The sum of this rank's share of a part, as bf16, from those of all ranks."""
        owed = self.owed.setdefault(start, np.zeros(arrays[0].size, self.unsent.dtype))
        for array in arrays:
            self.ops.bf16_add_into(owed, array)
        bits = np.empty(owed.size, np.uint16)
        self.ops.bf16_split(owed, bits)
        return bits

    def clear(self):
        """Keep nothing back any more, on all ranks at once: what is not in a checkpoint must not go on after it."""
        self.unsent[:] = 0
        self.owed.clear()
