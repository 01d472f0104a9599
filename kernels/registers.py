"""How much a register tile may hold, by instruction set. A larger one is computed in several rounds of its loops."""

import os
from typing import NamedTuple

from llvmlite.binding import get_host_cpu_features


class Tile(NamedTuple):
    """A register tile of a convolution: its pixels, those of the tile for the rest, and its blocks of outputs."""

    pixels: int
    few: int
    blocks: int


class Registers(NamedTuple):
    """What register tiles hold: vectors of sums of a convolution, and of a gradient of weights, each of which belong to
    so many blocks of outputs.
    """

    products: int
    product_blocks: int
    outer: int
    outer_blocks: int


# An AVX-512 core has 32 registers of 16 floats. With several blocks of outputs, a number of the input is loaded once
# for all of them: a core with two FMA units would wait for its loads otherwise (docs/performance.md).
# One with AVX2 has 16 of 8 floats: 6 sums take 12, weights 2 and a broadcast value 1; not tuned further.
# Elsewhere LLVM splits a vector of 16 into smaller ones: 16 registers of 4 floats hold 2 sums and their operands.
TABLE = {"avx512f": Registers(24, 4, 16, 4), "avx2": Registers(6, 1, 6, 1), "any": Registers(2, 1, 2, 1)}


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
TILE = Tile(HELD.products // HELD.product_blocks, min(4, HELD.products), HELD.product_blocks)
