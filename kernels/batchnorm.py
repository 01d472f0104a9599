"""Batch norm with scale and shift, the residual add and ReLU that follow it, and their gradients.

One pass takes the statistics, a second normalises, adds and clips: fused, because a pass over an
activation costs as much as the arithmetic of a small convolution. Statistics are summed in float64.
Ioffe and Szegedy, arXiv 1502.03167; biased variance, as in Caffe's BatchNorm and Scale layers.
"""

import numba
import numpy as np

from kernels.check import expect, expect_stored
from kernels.division import PIECES
from kernels.epilogue import mean_and_variance, norm_factors, normalised, reduce_pieces
from kernels.jit import parallel_jit
from kernels.ranges import nth_range
from kernels.vector import fused, load, splat, store, where_above, where_below, widen, zero64


def batchnorm_forward(x, gamma, beta, eps, residual=None, relu=False, out=None, statistics=None):
    """y = [relu] ((x - mean) / sqrt(var + eps) * gamma + beta [+ residual]) with the batch's own statistics.

    x, residual, y activations and gamma, beta vectors as in `layout`. Returns (y, mean, var), the biased
    variance, both float64 vectors: those in `statistics` (2, channels) if given. y is written to `out` if given,
    which may be x or residual.
    """
    _expect_batchnorm(x, gamma, beta)
    if statistics is None:
        statistics = mean_and_variance(channel_sums(x), x[0].size // 16)
    mean, var = statistics
    return batchnorm_inference(x, gamma, beta, mean, var, eps, residual, relu, out), mean, var


def batchnorm_inference(x, gamma, beta, mean, var, eps, residual=None, relu=False, out=None):
    """The same with the statistics given, as running ones are at test time. Returns y."""
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
    """The gradients of batchnorm_forward, from its input x, output y and statistics.

    With d = dy where y > 0 (if relu; else dy) and z = (x - mean) / sqrt(var + eps):
        dbeta += sum d;  dgamma += sum d z;  dx = gamma / sqrt(var + eps) * (d - mean(d) - z mean(d z)).
    Returns dx, in `out` if given (which may be dy); d goes to `dresidual` if given (which may be dy, too, unless out
    is): it is the gradient of the residual. With `sums`, those of conv_backward_data's `fused_norm`, dy is d already.
    """
    _expect_batchnorm(x, gamma, dgamma)
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
    """float64 (2, channels): the sums of x and of x^2 over all pixels."""
    sums = np.empty((x.shape[0], PIECES, 2, 16))
    _moments(x.reshape(-1), x[0].size // 16, sums)
    return reduce_pieces(sums, PIECES)


def _expect_batchnorm(x, gamma, other):
    expect_stored(x=(x, 5), gamma=(gamma, 1))
    expect(x.shape[4] == 16, f"x {x.shape} holds few channels, expected blocks of 16")
    for vector in (gamma, other):
        expect(vector.shape == (x.shape[0] * 16,), f"a vector of {vector.shape} for an activation {x.shape}")


@parallel_jit
def _moments(x, pixels, sums):
    """sums[block, piece] = (sum x, sum x^2)."""
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
    """y = max((x - mean) * factor + shift [+ residual], floor), and NaN where that is NaN."""
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


@parallel_jit
def _gradient_sums(dy, x, y, mean, relu, pixels, sums):
    """sums[block, piece] = (sum d, sum d (x - mean))."""
    out = sums.reshape(-1)
    zero = splat(np.float32(0))
    for task in numba.prange(sums.shape[0] * PIECES):
        block, piece = task // PIECES, task % PIECES
        centre = load(mean, block * 16)
        total, sum_d_centred = zero64(), zero64()
        first, last = nth_range(piece, PIECES, pixels)
        for p in range(first, last):
            at = (block * pixels + p) * 16
            d = load(dy, at)
            if relu:
                d = where_above(load(y, at), zero, d, zero)
            total = total + widen(d)
            sum_d_centred = sum_d_centred + widen(d) * widen(load(x, at) - centre)
        store(out, task * 32, total)
        store(out, task * 32 + 16, sum_d_centred)


@parallel_jit
def _gradient(dy, x, y, factors, relu, pixels, dx, dresidual, keep):
    """dx = factor * d + (mean - x) * slope + level, and d itself where it is kept."""
    channels = factors.shape[1]
    means, scales, slopes, levels = factors[0], factors[1], factors[2], factors[3]
    zero = splat(np.float32(0))
    for task in numba.prange(channels // 16 * PIECES):
        block, piece = task // PIECES, task % PIECES
        mean, scale = load(means, block * 16), load(scales, block * 16)
        slope, level = load(slopes, block * 16), load(levels, block * 16)
        first, last = nth_range(piece, PIECES, pixels)
        for p in range(first, last):
            at = (block * pixels + p) * 16
            d = load(dy, at)
            if relu:
                d = where_above(load(y, at), zero, d, zero)
            value = fused(d, scale, fused(mean - load(x, at), slope, level))
            if keep:
                store(dresidual, at, d)
            store(dx, at, value)
