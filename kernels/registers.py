"""How much a tile keeps in registers, by instruction set. A tile that is larger is computed in parts."""

import os
from typing import NamedTuple

from llvmlite.binding import get_host_cpu_features


class Registers(NamedTuple):
    """pixels    of 16 outputs each, whose sums a tile of a convolution holds
    channels  of 16 outputs each, whose sums a tile of a weight gradient holds
    """

    pixels: int
    channels: int


# An AVX-512 core has 32 registers of 16 floats: measured best on Zen 4, of 8 to 28 pixels.
# One with AVX2 has 16 of 8 floats: 6 pixels take 12, weights 2 and a broadcast value 1; not tuned further.
# On others LLVM makes of a vector of 16 what there is; 16 registers of 4 floats hold 2 pixels and their operands.
TABLE = {"avx512f": Registers(16, 16), "avx2": Registers(6, 6), "any": Registers(2, 2)}


def instruction_set():
    """The first of the table that the CPU has for which kernels are compiled (this one, unless Numba is told)."""
    told = os.environ.get("NUMBA_CPU_FEATURES")
    features = get_host_cpu_features().flatten() if told is None else told
    return next((name for name in TABLE if f"+{name}" in features.split(",")), "any")


HELD = TABLE[instruction_set()]
