"""Sums of gradients over ranks in half the bytes: bfloat16 on the way, and nothing lost for good.

A bf16 has float32's range and 8 bits of its precision. What rounding takes from a value is kept where it was rounded
and is added to the next iteration's: error feedback (Seide et al., 1-bit stochastic gradient descent, Interspeech
2014; Karimireddy et al., arXiv 1901.09847), both from the ranks and back to them (Tang et al., DoubleSqueeze,
arXiv 1905.05957).
"""

import numpy as np

from nptrain.reduction.plain_sum import PlainSum

BF16_BYTES = 2


class CompressedSum(PlainSum):
    """A `PlainSum` whose gradients travel as bf16; batch statistics travel as they are.

    size    of the gradients: what lies behind them in the flat array are statistics
    unsent  what rounding has kept back of this rank's own gradients
    owed    what it has kept back of the sums that this rank takes, by where their part begins
    """

    def __init__(self, world, ops, gradients, terms, size):
        super().__init__(world, ops, gradients, terms)
        self.unsent, self.owed = np.zeros(size, gradients.dtype), {}

    def total(self, part):
        """sums[part] = its sum over all ranks, the same bits on all. The parts of every iteration are the same."""
        coded, rest = self._split(part)
        self.world.allreduce(self.sums[rest])
        unsent, values = self.unsent[coded], self.sums[coded]
        with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN travel as they are
            unsent += values
        sent, received = (np.empty(values.size, np.uint16) for _ in range(2))
        self.ops.bf16_split(unsent, sent)
        self.world.allreduce_by(
            [sent], [1] * self.world.size, lambda arrays: self._add(part.start, arrays), received)  # fmt: skip
        values[:] = 0
        self.ops.bf16_add_into(values, received)

    def _add(self, start, arrays):
        """The sum of this rank's share of a part, as bf16, from those of all ranks."""
        owed = self.owed.setdefault(start, np.zeros(arrays[0].size, self.unsent.dtype))
        for array in arrays:
            self.ops.bf16_add_into(owed, array)
        bits = np.empty(owed.size, np.uint16)
        self.ops.bf16_split(owed, bits)
        return bits

    def forget(self):
        """Keep nothing back any more: what is not in a checkpoint must not come after it. All ranks call it."""
        self.unsent[:] = 0
        self.owed.clear()

    def wire_bytes(self, part):
        coded, rest = self._split(part)
        return (coded.stop - coded.start) * BF16_BYTES + (rest.stop - rest.start) * self.sums.itemsize

    def _split(self, part):
        """A part's gradients, and its statistics."""
        end = min(part.stop, self.unsent.size)
        return slice(part.start, end), slice(end, part.stop)
