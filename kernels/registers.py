"""How much a register tile may hold, by instruction set. A larger one is computed in several rounds of its loops."""

import os
from typing import NamedTuple

from llvmlite.binding import get_host_cpu_features


class Registers(NamedTuple):
    """The vectors of sums that a register tile holds: of a convolution, of a gradient of weights."""

    products: int
    outer: int


# An AVX-512 core has 32 registers of 16 floats. Measured on Zen 4, with all operands in the L1 cache: in bf16, 6 pixels
# x 4 blocks of outputs reach 98 % of the peak, 14 x 2 90 %, 8 x 2 86 %, 16 x 1 73 %, as every broadcast of two numbers
# takes an instruction; in float32, where it is a part of the FMA, 16 x 1 reach 99 %, 14 x 2 89 %, 8 x 2 82 %.
# One with AVX2 has 16 of 8 floats: 6 sums take 12, weights 2 and a broadcast value 1; not tuned further.
# Elsewhere LLVM splits a vector of 16 into smaller ones: 16 registers of 4 floats hold 2 sums and their operands.
TABLE = {"avx512f": Registers(24, 16), "avx2": Registers(6, 6), "any": Registers(2, 2)}


def _features():
    """The features of the CPU for which kernels are compiled: this one, or that of NUMBA_CPU_FEATURES."""
    features = os.environ.get("NUMBA_CPU_FEATURES")
    return (get_host_cpu_features().flatten() if features is None else features).split(",")


def instruction_set():
    """The first of TABLE that the CPU has."""
    return next((name for name in TABLE if f"+{name}" in _features()), "any")


def has_bf16():
    """Whether the CPU multiplies bf16 (AVX512-BF16)."""
    return "+avx512bf16" in _features()


HELD = TABLE[instruction_set()]
