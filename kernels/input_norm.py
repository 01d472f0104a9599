"""The batch norm and ReLU between a convolution's stored input and what it multiplies.

Winograd's algorithm reads its input to transform it, and normalises it there; so the normalised input is never written
to memory. Other convolutions get it from a pass before, in working memory: in a 1x1 convolution, normalising a piece
in the cache takes as long as that pass.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from kernels.batchnorm import batchnorm_inference
from kernels.check import expect
from kernels.epilogue import norm_factors
from kernels.group_sums import normalised
from kernels.jit import inlined_jit
from kernels.layout import BF16
from kernels.scratch import NORMALISED, NORMALISED_BF16, scratch
from kernels.vector import load, rounded_to_bf16, splat, where_below

NO_NORM = np.empty(0, np.float32)  # the factors of a convolution whose input is what it multiplies


class InputNorm(NamedTuple):
    """A batch norm and ReLU before a convolution: it multiplies relu(norm(x)), rounded as x is stored.

    gamma, beta  vectors, as `layout` stores them
    mean, var    float64 vectors of the batch: var is the biased variance
    eps          added to var
    """

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float


def input_operand(x, norm, by_winograd):
    """(what a convolution's kernel reads, the factors with which it normalises that): x and the `norm_factors`, flat,
    by Winograd's algorithm; else relu(norm(x)) in working memory, valid until the next call, and NO_NORM.

    x     activation (C/16, H, W, N, 16)
    norm  an `InputNorm`; None: x and NO_NORM
    """
    if norm is None:
        return x, NO_NORM
    channels = x.shape[0] * x.shape[4]
    expect(norm.gamma.size == channels, f"norm is of {norm.gamma.size} channels, expected {channels}")
    if by_winograd:
        return x, norm_factors(*norm).reshape(-1)
    out = scratch(NORMALISED_BF16 if x.dtype == BF16 else NORMALISED, x.shape)
    return batchnorm_inference(x, *norm, None, True, out), NO_NORM


@inlined_jit
def factors_of(factors, block):
    """Vectors of mean, scale and shift of a block's channels, from flat `norm_factors`."""
    channels = factors.size // 3
    return load(factors, block * 16), load(factors, channels + block * 16), load(factors, 2 * channels + block * 16)


@inlined_jit
def load_normalised_if(x, at, inside, mean, scale, shift):
    """relu(norm(x)) of elements at .. at + 15 of a flat array, rounded as x is, and NaN where x is; zeros (and no
    access) where not `inside`.
    """
    zero = splat(np.float32(0))
    if inside:
        value = normalised(load(x, at), mean, scale, shift)
        return rounded_as(x, where_below(value, zero, zero, value))
    return zero


def rounded_as(array, value):
    """A float32 vector rounded to what the array holds."""
    raise NotImplementedError  # compiled code only


@overload(rounded_as, inline="always")
def _rounded_as(array, value):
    if array.dtype == types.uint16:
        return lambda array, value: rounded_to_bf16(value)
    return lambda array, value: value
