"""bfloat16 on flat arrays: the upper half of a float32, as uint16, and what rounding to it loses.

On one thread each: they run beside the kernels that compute, on the thread that communicates.
"""

import numpy as np

from kernels.check import expect, expect_stored
from kernels.jit import jit


def bf16_split(values, bits):
    """values = decoded(bits) + rest, flat float32 and uint16 arrays of one size: `bits` gets the values, rounded to
    nearest, ties to even; `values` keeps the rest, which is exact.

    inf and NaN stay what they are, and what is above the largest bf16 by half its last place or more becomes inf; their
    rest is 0.
    """
    expect_stored(values=(values, 1))
    _expect_bits(bits, values)
    _split(values, values.view(np.uint32), bits)


def bf16_add_into(total, bits):
    """total += decoded(bits), flat float32 or float64 and uint16 arrays of one size, in place."""
    expect(total.dtype in (np.float32, np.float64), f"total is {total.dtype}, expected float32 or float64")
    _expect_bits(bits, total)
    _add_into(total, bits)


def _expect_bits(bits, values):
    expect(bits.dtype == np.uint16, f"bits are {bits.dtype}, expected uint16")
    expect(bits.ndim == 1 and bits.shape == values.shape, f"bits have shape {bits.shape}, expected {values.shape}")


@jit
def _split(values, words, bits):
    """`bf16_split`; `words` are the same memory as `values`, as uint32."""
    for i in range(values.size):
        word = words[i]
        # the lower half carries into the upper from half a unit on; at the half itself only where that is odd
        odd = (word >> np.uint32(16)) & np.uint32(1)
        half = np.uint32((word + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        if (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):  # NaN, and quiet
            half = np.uint32(word >> np.uint32(16)) | np.uint32(0x40)
        bits[i] = half
        finite = (half & np.uint32(0x7F80)) != np.uint32(0x7F80)
        values[i] = values[i] - _decoded(half) if finite else np.float32(0)


@jit
def _add_into(total, bits):
    """`bf16_add_into`."""
    for i in range(total.size):
        total[i] += _decoded(bits[i])


@jit
def _decoded(half):
    """The float32 whose upper half is given, a uint16 or uint32, and whose lower half is zero."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)
