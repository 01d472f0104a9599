"""Batch norm with scale and shift, the residual add and ReLU that follow it, and their gradients.

One pass takes the statistics, a second normalises, adds and clips: fused, because a pass over an
activation costs as much as the arithmetic of a small convolution. Statistics are summed in float64.
Ioffe and Szegedy, arXiv 1502.03167; biased variance, as in Caffe's BatchNorm and Scale layers.
"""

import numba
import numpy as np

from kernels.check import expect, expect_activations, expect_stored
from kernels.division import PIECES
from kernels.epilogue import mean_and_variance, norm_factors, reduce_pieces
from kernels.group_sums import normalised
from kernels.jit import inlined_jit, parallel_jit
from kernels.ranges import nth_range
from kernels.vector import fused, load, splat, store, where_above, where_below, widen, zero64


def batchnorm_forward(x, gamma, beta, eps, residual=None, relu=False, out=None, statistics=None):
    """y = [relu] ((x - mean) / sqrt(var + eps) * gamma + beta [+ residual]) with the batch's own statistics.

    x            activation (C/16, H, W, N, 16)
    gamma, beta  vectors
    eps          added to the variance
    residual     activation of x's shape (None: nothing is added)
    relu         whether negative values become 0
    out          where y is written, which may be x or residual (None: a new array)
    statistics   float64 (2, channels): mean and biased variance of x, where they are known

    Returns (y, mean, var): an activation, and the statistics as float64 vectors. Arrays are stored as in `layout`.
    """
    _expect_batchnorm(x, gamma, beta)
    if statistics is None:
        statistics = mean_and_variance(channel_sums(x), x[0].size // 16)
    mean, var = statistics
    return batchnorm_inference(x, gamma, beta, mean, var, eps, residual, relu, out), mean, var


def batchnorm_inference(x, gamma, beta, mean, var, eps, residual=None, relu=False, out=None):
    """The same with given float64 vectors mean and var, as running ones in a test. Returns y."""
    _expect_batchnorm(x, gamma, beta)
    y = np.empty_like(x) if out is None else out
    expect(y.shape == x.shape, f"out is {y.shape}, expected {x.shape}")
    if residual is not None:
        expect(residual.shape == x.shape, f"residual is {residual.shape}, expected {x.shape}")
    factors = norm_factors(gamma, beta, mean, var, eps)
    added = x if residual is None else residual
    floor = np.float32(0 if relu else -np.inf)
    _normalise(x.reshape(-1), factors, added.reshape(-1), residual is not None, floor, y.reshape(-1))
    return y


def batchnorm_backward(dy, x, y, gamma, mean, var, eps, dgamma, dbeta, relu=False, out=None, dresidual=None,
                       sums=None):  # fmt: skip
    """The gradients of batchnorm_forward. With z = (x - mean) / sqrt(var + eps), and d = dy, if relu only where y > 0:

        dbeta += sum d;  dgamma += sum d z;  dx = gamma / sqrt(var + eps) * (d - mean(d) - z mean(d z))

    dy             activation, the gradient of y
    x, y           the forward pass's input and output; with `sums`, y is not read and may be None
    gamma, mean, var, eps   those of the forward pass
    dgamma, dbeta  vectors, added to in place
    out            where dx is written, which may be dy (None: a new array)
    dresidual      where d is written, the gradient of the residual; it may be dy, unless `out` is (None: d is not kept)
    sums           sum d and sum d (x - mean), float64 (2, channels), as `conv_backward_data` returns them; dy is then d

    Returns dx, an activation. Arrays are stored as in `layout`.
    """
    _expect_batchnorm(x, gamma, dgamma)
    y = x if y is None and sums is not None else y
    expect(dy.shape == x.shape and y.shape == x.shape, f"dy {dy.shape}, x {x.shape} and y {y.shape} differ")
    blocks, pixels = x.shape[0], x[0].size // 16
    dx = np.empty_like(x) if out is None else out
    dyf, xf, yf = dy.reshape(-1), x.reshape(-1), y.reshape(-1)
    if sums is None:
        partial = np.zeros((blocks, PIECES, 2, 16))
        _gradient_sums(dyf, xf, yf, mean.astype(np.float32), relu, pixels, partial)
        sums = reduce_pieces(partial, PIECES)
    else:
        relu = False
    sum_d, sum_d_centred = sums
    inverse = 1 / np.sqrt(var + eps)
    dbeta += sum_d.astype(np.float32)
    dgamma += (sum_d_centred * inverse).astype(np.float32)
    factor = gamma * inverse
    factors = np.stack([mean, factor, factor * inverse**2 * sum_d_centred / pixels, -factor * sum_d / pixels])
    kept = dx if dresidual is None else dresidual
    _gradient(dyf, xf, yf, factors.astype(np.float32), relu, pixels, dx.reshape(-1),
              kept.reshape(-1), dresidual is not None)  # fmt: skip
    return dx


def channel_sums(x):
    """The sums of an activation x (C/16, H, W, N, 16) and of x^2 over all pixels: float64 (2, channels)."""
    sums = np.empty((x.shape[0], PIECES, 2, 16))
    _moments(x.reshape(-1), x[0].size // 16, sums)
    return reduce_pieces(sums, PIECES)


def _expect_batchnorm(x, gamma, other):
    """Raise ValueError unless x is an activation of blocks of 16, and the vectors have its channels."""
    expect_activations(x=(x, 5))
    expect_stored(gamma=(gamma, 1))
    expect(x.shape[4] == 16, f"x {x.shape} holds few channels, expected blocks of 16")
    for vector in (gamma, other):
        expect(vector.shape == (x.shape[0] * 16,), f"a vector of {vector.shape} for an activation {x.shape}")


@parallel_jit
def _moments(x, pixels, sums):
    """sums[block, piece] = (sum x, sum x^2).

    x       an activation, flat
    pixels  of a block, in all images
    sums    float64 (blocks, PIECES, 2, 16)
    """
    out = sums.reshape(-1)
    for task in numba.prange(sums.shape[0] * PIECES):
        block, piece = task // PIECES, task % PIECES
        total, squares = zero64(), zero64()
        first, last = nth_range(piece, PIECES, pixels)
        for p in range(first, last):
            value = widen(load(x, (block * pixels + p) * 16))
            total = total + value
            squares = squares + value * value
        store(out, task * 32, total)
        store(out, task * 32 + 16, squares)


@parallel_jit
def _normalise(x, factors, residual, add, floor, y):
    """y = max((x - mean) * scale + shift [+ residual], floor), and NaN where that is NaN.

    x, residual, y  activations, flat; the residual is only read if `add`
    factors         (3, channels) of `norm_factors`
    floor           the least value: 0, or -inf without a ReLU
    """
    channels = factors.shape[1]
    means, scales, shifts = factors[0], factors[1], factors[2]
    pixels = x.size // channels
    lowest = splat(floor)
    for task in numba.prange(channels // 16 * PIECES):
        block, piece = task // PIECES, task % PIECES
        mean, scale, shift = load(means, block * 16), load(scales, block * 16), load(shifts, block * 16)
        first, last = nth_range(piece, PIECES, pixels)
        for p in range(first, last):
            at = (block * pixels + p) * 16
            value = normalised(load(x, at), mean, scale, shift)
            if add:
                value = value + load(residual, at)
            store(y, at, where_below(value, lowest, lowest, value))


@inlined_jit
def _before_relu(dy, y, at, relu):
    """The gradient d before the ReLU, of 16 channels at offset `at`: dy, or with `relu` dy where y > 0, else 0."""
    d = load(dy, at)
    if relu:
        zero = splat(np.float32(0))
        d = where_above(load(y, at), zero, d, zero)
    return d


@parallel_jit
def _gradient_sums(dy, x, y, mean, relu, pixels, sums):
    """sums[block, piece] = (sum d, sum d (x - mean)) with d = `_before_relu`.

    dy, x, y  activations, flat; y is only read with `relu`
    mean      float32 (channels,)
    pixels    of a block, in all images
    sums      float64 (blocks, PIECES, 2, 16)
    """
    out = sums.reshape(-1)
    for task in numba.prange(sums.shape[0] * PIECES):
        block, piece = task // PIECES, task % PIECES
        centre = load(mean, block * 16)
        total, sum_d_centred = zero64(), zero64()
        first, last = nth_range(piece, PIECES, pixels)
        for p in range(first, last):
            at = (block * pixels + p) * 16
            d = _before_relu(dy, y, at, relu)
            total = total + widen(d)
            sum_d_centred = sum_d_centred + widen(d) * widen(load(x, at) - centre)
        store(out, task * 32, total)
        store(out, task * 32 + 16, sum_d_centred)


@parallel_jit
def _gradient(dy, x, y, factors, relu, pixels, dx, dresidual, keep):
    """dx = scale * d + (mean - x) * slope + level, with d = `_before_relu`; dresidual = d if `keep`.

    dy, x, y, dx, dresidual  activations, flat
    factors  float32 (4, channels): mean, scale, slope and level
    pixels   of a block, in all images
    """
    channels = factors.shape[1]
    means, scales, slopes, levels = factors[0], factors[1], factors[2], factors[3]
    for task in numba.prange(channels // 16 * PIECES):
        block, piece = task // PIECES, task % PIECES
        mean, scale = load(means, block * 16), load(scales, block * 16)
        slope, level = load(slopes, block * 16), load(levels, block * 16)
        first, last = nth_range(piece, PIECES, pixels)
        for p in range(first, last):
            at = (block * pixels + p) * 16
            d = _before_relu(dy, y, at, relu)
            value = fused(d, scale, fused(mean - load(x, at), slope, level))
            if keep:
                store(dresidual, at, d)
            store(dx, at, value)
