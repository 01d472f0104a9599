"""Max pooling in Caffe's ceil mode and global average pooling, forward and backward."""

import numba
import numpy as np

from kernels.check import expect, expect_activations
from kernels.jit import parallel_jit
from kernels.layout import stored_as, values_of
from kernels.sizes import pooled_size
from kernels.vector import load, narrow, splat, store, where_equal, where_larger, widen, zero64


def maxpool_forward(x, kernel=3, stride=2, out=None, winner=None):
    """The largest value of each window, without padding; a NaN counts as larger than all else.

    x               activation (C/16, H, W, N, 16)
    kernel, stride  of the windows, pixels
    out, winner     where the results are written (None: new arrays)

    Returns (y, winner), activations of `pooled_size`: winner is where in its window the first maximum is,
    r * kernel + s, in x's dtype.
    """
    expect_activations(x=(x, 5))
    expect(min(x.shape[1:3]) >= kernel, f"a window of {kernel} does not fit into x {x.shape}")
    blocks, h, w, n, lanes = x.shape
    expect(lanes == 16, f"x {x.shape} holds few channels, expected blocks of 16")
    shape = (blocks, pooled_size(h, kernel, stride), pooled_size(w, kernel, stride), n, 16)
    y = np.empty(shape, x.dtype) if out is None else out
    expect(y.shape == shape, f"out is {y.shape}, expected {shape}")
    winner = np.empty(shape, x.dtype) if winner is None else winner
    expect(winner.shape == shape, f"winner is {winner.shape}, expected {shape}")
    _maxpool_forward(x, y, winner, kernel, stride)
    return y, winner


def maxpool_backward(dy, winner, size, kernel=3, stride=2, out=None):
    """dx = dy at each window's winner, summed over windows that overlap.

    dy, winner      activations of one shape: the gradient of y, and what the forward pass returned
    size            x's (height, width)
    kernel, stride  as in the forward pass
    out             where dx is written (None: a new array)

    Returns dx, an activation as x.
    """
    expect_activations(dy=(dy, 5), winner=(winner, 5))
    expect(dy.shape == winner.shape, f"dy {dy.shape} and winner {winner.shape} differ")
    shape = (dy.shape[0], *size, dy.shape[3], 16)
    dx = np.empty(shape, dy.dtype) if out is None else out
    expect(dx.shape == shape, f"out is {dx.shape}, expected {shape}")
    _maxpool_backward(dy, winner, dx, kernel, stride)
    return dx


def average_forward(x):
    """Mean over each map: activation (C/16, H, W, N, 16) -> (C/16, 1, 1, N, 16), summed in float64."""
    expect_activations(x=(x, 5))
    blocks, h, w, n, _ = x.shape
    y = np.empty((blocks, 1, 1, n, 16), x.dtype)
    _average(x.reshape(-1), y.reshape(-1), blocks, h * w, n)
    return y


def average_backward(dy, size, out=None):
    """dx = dy / (height * width) everywhere: activation (C/16, 1, 1, N, 16) -> (C/16, *size, N, 16), which is written
    to `out` if given. `size` is x's (height, width).
    """
    shape = (dy.shape[0], *size, *dy.shape[3:])
    dx = np.empty(shape, dy.dtype) if out is None else out
    dx[...] = stored_as(values_of(dy) * np.float32(1 / (size[0] * size[1])), dy.dtype)
    return dx


@parallel_jit
def _average(x, y, blocks, area, images):
    """y (blocks, images, 16) = the means of x (blocks, area, images, 16), both flat."""
    share = np.float32(1 / area)
    for task in numba.prange(blocks * images):
        block, n = task // images, task % images
        total = zero64()
        for pixel in range(area):
            total = total + widen(load(x, ((block * area + pixel) * images + n) * 16))
        store(y, task * 16, narrow(total) * splat(share))


@parallel_jit
def _maxpool_forward(x, y, winner, kernel, stride):
    """Fill y and winner; arguments as in `maxpool_forward`. A task computes a row of a block."""
    blocks, h_in, w_in, images = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    h_out, w_out = y.shape[1], y.shape[2]
    xf, yf, wf = x.reshape(-1), y.reshape(-1), winner.reshape(-1)
    for task in numba.prange(blocks * h_out):
        block, h = task // h_out, task % h_out
        for w in range(w_out):
            for n in range(images):
                best, place = splat(np.float32(-np.inf)), splat(np.float32(0))
                for r in range(min(kernel, h_in - h * stride)):
                    for s in range(min(kernel, w_in - w * stride)):
                        row = (block * h_in + h * stride + r) * w_in + w * stride + s
                        value = load(xf, (row * images + n) * 16)
                        place = where_larger(value, best, splat(np.float32(r * kernel + s)), place)
                        best = where_larger(value, best, value, best)
                at = ((task * w_out + w) * images + n) * 16
                store(yf, at, best)
                store(wf, at, place)


@parallel_jit
def _maxpool_backward(dy, winner, dx, kernel, stride):
    """Fill dx; arguments as in `maxpool_backward`. A task computes a row of a block from all windows that meet it."""
    h_out, w_out, images = dy.shape[1], dy.shape[2], dy.shape[3]
    blocks, h_in, w_in = dx.shape[0], dx.shape[1], dx.shape[2]
    yf, wf, xf = dy.reshape(-1), winner.reshape(-1), dx.reshape(-1)
    zero = splat(np.float32(0))
    for task in numba.prange(blocks * h_in):
        block, h = task // h_in, task % h_in
        top, bottom = max(0, (h - kernel + stride) // stride), min(h_out, h // stride + 1)
        for w in range(w_in):
            left, right = max(0, (w - kernel + stride) // stride), min(w_out, w // stride + 1)
            for n in range(images):
                total = zero
                for i in range(top, bottom):
                    for j in range(left, right):
                        at = (((block * h_out + i) * w_out + j) * images + n) * 16
                        place = splat(np.float32((h - i * stride) * kernel + w - j * stride))
                        total = total + where_equal(load(wf, at), place, load(yf, at), zero)
                store(xf, ((task * w_in + w) * images + n) * 16, total)
