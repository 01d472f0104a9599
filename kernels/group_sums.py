"""The sums over a group of eight pixels that batch norm needs, 16 channels at once.

They are taken in float32, whose values are no more exact than that, and then added up in float64. In bf16, products
and sums of pairs of pixels are one instruction.
"""

import numpy as np
from numba import types
from numba.extending import overload

from kernels.jit import inlined_jit, jit
from kernels.pairs import load_pixels, ones, pair_of, pair_sums
from kernels.vector import fused, load, splat, store, where_above, widen

GROUP = 8


@jit
def normalised(value, mean, scale, shift):
    """Batch norm of 16 channels, all vectors. Written once, so that it rounds the same everywhere."""
    return fused(value - mean, scale, shift)


def moments(x, at):
    """float64 vectors (sum x, sum x^2) of the GROUP pixels of a flat activation from element `at` on."""
    raise NotImplementedError  # compiled code only


@overload(moments, inline="always")
def _moments(x, at):
    return _pair_moments if x.dtype == types.uint16 else _float_moments


def _pair_moments(x, at):
    unit, zero = ones(), splat(np.float32(0))
    a, b, c, d = load_pixels(x, at), load_pixels(x, at + 32), load_pixels(x, at + 64), load_pixels(x, at + 96)
    first = pair_sums(a, unit, pair_sums(b, unit, zero)) + pair_sums(c, unit, pair_sums(d, unit, zero))
    second = pair_sums(a, a, pair_sums(b, b, zero)) + pair_sums(c, c, pair_sums(d, d, zero))
    return widen(first), widen(second)


def _float_moments(x, at):
    a, b, c, d = load(x, at), load(x, at + 16), load(x, at + 32), load(x, at + 48)
    first, second = (a + b) + (c + d), fused(a, a, b * b) + fused(c, c, d * d)
    a, b, c, d = load(x, at + 64), load(x, at + 80), load(x, at + 96), load(x, at + 112)
    return widen(first + ((a + b) + (c + d))), widen(second + (fused(a, a, b * b) + fused(c, c, d * d)))


@inlined_jit
def through_relu(out, gate, i, mean, scale, shift):
    """d of the 16 channels at offset i, also written to out: out where the normalised gate is positive, else 0."""
    zero = splat(np.float32(0))
    d = where_above(normalised(load(gate, i), mean, scale, shift), zero, load(out, i), zero)
    store(out, i, d)
    return d


def gradient_moments(out, x, gate, at, centre, mean, scale, shift):
    """float64 vectors (sum d, sum d (x - centre)) of the GROUP pixels from element `at` on; d as in `through_relu`."""
    raise NotImplementedError  # compiled code only


@overload(gradient_moments, inline="always")
def _gradient_moments(out, x, gate, at, centre, mean, scale, shift):
    return _pair_gradients if x.dtype == types.uint16 else _float_gradients


def _pair_gradients(out, x, gate, at, centre, mean, scale, shift):
    unit = ones()
    first = second = splat(np.float32(0))
    for i in range(at, at + GROUP * 16, 32):
        a, b = through_relu(out, gate, i, mean, scale, shift), through_relu(out, gate, i + 16, mean, scale, shift)
        d = pair_of(a, b)
        first, second = pair_sums(d, unit, first), pair_sums(d, load_pixels(x, i), second)
    total = widen(first)  # products of bf16 are exact in float32, so that the mean may be subtracted last
    return total, widen(second) - widen(centre) * total


def _float_gradients(out, x, gate, at, centre, mean, scale, shift):
    first = second = splat(np.float32(0))
    for i in range(at, at + GROUP * 16, 32):
        a, b = through_relu(out, gate, i, mean, scale, shift), through_relu(out, gate, i + 16, mean, scale, shift)
        first, second = first + (a + b), second + fused(a, load(x, i) - centre, b * (load(x, i + 16) - centre))
    return widen(first), widen(second)
