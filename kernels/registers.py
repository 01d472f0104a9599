"""How much a register tile may hold, by instruction set. A larger one is computed in several rounds of its loops."""

import os
from typing import NamedTuple

from llvmlite.binding import get_host_cpu_features


class Registers(NamedTuple):
    """pixels    of 16 outputs each, whose sums a register tile of a convolution holds
    channels  of 16 outputs each, whose sums a register tile of a weight gradient holds
    """

    pixels: int
    channels: int


# An AVX-512 core has 32 registers of 16 floats: measured best on Zen 4, of 8 to 28 pixels.
# One with AVX2 has 16 of 8 floats: 6 pixels take 12, weights 2 and a broadcast value 1; not tuned further.
# Elsewhere LLVM splits a vector of 16 into smaller ones: 16 registers of 4 floats hold 2 pixels and their operands.
TABLE = {"avx512f": Registers(16, 16), "avx2": Registers(6, 6), "any": Registers(2, 2)}


def instruction_set():
    """The first of TABLE that the CPU has for which kernels are compiled: this one, or that of NUMBA_CPU_FEATURES."""
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = get_host_cpu_features().flatten()
    return next((name for name in TABLE if f"+{name}" in features.split(",")), "any")


HELD = TABLE[instruction_set()]
