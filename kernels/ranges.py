"""The range that one of several tasks computes."""

from kernels.jit import jit


@jit
def nth_range(index, count, size):
    """(first, last + 1) of the range number `index` where 0 .. size - 1 is divided into `count` ranges, as equal as can
    be.
    """
    return index * size // count, (index + 1) * size // count
