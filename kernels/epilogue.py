"""What a convolution does to its result while that is still in a core's cache, instead of a pass of its own later.

Forward: the sums of a batch norm's statistics; or a bias, a residual and a ReLU, with which a folded batch norm ends.
Sums are taken of four pixels in float32, whose values are no more exact than that, and then in float64.
Backward: the ReLU that made the convolution's input, and the sums that the batch norm before it needs.
"""

from typing import NamedTuple

import numpy as np

from kernels.jit import inlined_jit, jit
from kernels.scratch import EPILOGUE_SUMS, scratch
from kernels.scratch_sizes import epilogue_sums
from kernels.vector import fused, load, splat, store, where_above, where_below, widen

_NO32, _NO64 = np.empty(0, np.float32), np.empty(0, np.float64)


class FusedBatchNorm(NamedTuple):
    """The batch norm y = relu(norm(x) [+ residual]) that made a convolution's input, for `conv_backward_data`, which
    applies the ReLU's backward pass to the gradient of y and sums it.

    x, y         activations
    gamma, beta  vectors, as `layout` stores them
    mean, var    float64 vectors of the batch: var is the biased variance
    eps          added to var
    residual     whether a residual was added
    """

    x: np.ndarray
    y: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    eps: float
    residual: bool


class Epilogue(NamedTuple):
    """What `apply_epilogue` does to a convolution's result. Arrays are flat; what an empty one stands for is left out.

    bias, residual  added: (channels,), and of the result's shape
    floor           the least value: 0 for a ReLU; only with a bias
    x, y            for the backward pass through a ReLU, of the result's shape: the input of the batch norm before the
                    ReLU; the ReLU's output, where a residual was added, so that x does not determine it
    factors         (3, channels): `norm_factors` of that batch norm
    sums, pieces    float64 (blocks, pieces, 2, 16): sums of each piece are added to; their number
    """

    bias: np.ndarray = _NO32
    residual: np.ndarray = _NO32
    floor: float = np.float32(-np.inf)
    x: np.ndarray = _NO32
    y: np.ndarray = _NO32
    factors: np.ndarray = _NO32
    sums: np.ndarray = _NO64
    pieces: int = 0


NO_EPILOGUE = Epilogue()


def backward_epilogue(norm):
    """The epilogue of the backward pass through the ReLU of a FusedBatchNorm, with sums."""
    y = norm.y.reshape(-1) if norm.residual else _NO32
    return Epilogue(x=norm.x.reshape(-1), y=y, factors=norm_factors(*norm[2:7]).reshape(-1))


def norm_factors(gamma, beta, mean, var, eps):
    """float32 (3, channels): mean, scale and shift of the batch norm y = (x - mean) * scale + shift."""
    return np.stack([mean, gamma / np.sqrt(var + eps), beta]).astype(np.float32)


def with_sums(epilogue, blocks, pieces):
    """The epilogue with room for sums, now zero, of so many pieces of each block. Valid until the next call."""
    sums = scratch(EPILOGUE_SUMS, epilogue_sums(blocks, pieces))
    sums[:] = 0
    return epilogue._replace(sums=sums.reshape(-1), pieces=pieces)


def reduce_pieces(sums, pieces):
    """Sums (blocks, pieces, 2, 16) over all pieces, in their order: float64 (2, channels)."""
    return sums.reshape(-1, pieces, 2, 16).sum(axis=1).transpose(1, 0, 2).reshape(2, -1)


def mean_and_variance(sums, count):
    """(mean, biased variance) of each channel from (2, channels): the sums of `count` values and of their squares."""
    mean, square = sums / count
    return mean, np.maximum(square - mean * mean, 0)


@jit
def normalised(value, mean, scale, shift):
    """Batch norm of 16 channels, all vectors. Written once, so that it rounds the same everywhere."""
    return fused(value - mean, scale, shift)


@inlined_jit
def apply_epilogue(e, out, at, count, block, piece):
    """Apply an epilogue to pixels of one block of a convolution's result.

    e          an `Epilogue`
    out        the result, flat
    at, count  the offset of the first pixel, and how many
    block      of the result
    piece      to whose sums these pixels belong
    """
    if e.x.size > 0:
        _backward_through_relu(e, out, at, count, block, piece)
        return
    if e.bias.size > 0:
        _add_bias(e, out, at, count, block)
    if e.sums.size > 0:
        _add_to_sums(e, out, at, count, block, piece)


@inlined_jit
def _add_to_sums(e, out, at, count, block, piece):
    """Forward: the sums of the values and of their squares, for `mean_and_variance`."""
    to = (block * e.pieces + piece) * 32
    first, second = load(e.sums, to), load(e.sums, to + 16)
    end, fours = at + count * 16, at + count // 4 * 64
    for i in range(at, fours, 64):
        a, b, c, d = load(out, i), load(out, i + 16), load(out, i + 32), load(out, i + 48)
        first = first + widen((a + b) + (c + d))
        second = second + widen(fused(a, a, b * b) + fused(c, c, d * d))
    for i in range(fours, end, 16):
        value = widen(load(out, i))
        first = first + value
        second = second + value * value
    store(e.sums, to, first)
    store(e.sums, to + 16, second)


@inlined_jit
def _add_bias(e, out, at, count, block):
    """out = max(out + bias [+ residual], floor), and NaN where that is NaN."""
    bias, floor = load(e.bias, block * 16), splat(e.floor)
    for i in range(at, at + count * 16, 16):
        value = load(out, i) + bias
        if e.residual.size > 0:
            value = value + load(e.residual, i)
        store(out, i, where_below(value, floor, floor, value))


@inlined_jit
def _backward_through_relu(e, out, at, count, block, piece):
    """Backward: out becomes d, the gradient before the ReLU; the sums of d and of d (x - mean) are added to."""
    channels = e.factors.size // 3
    mean = load(e.factors, block * 16)
    scale, shift = load(e.factors, channels + block * 16), load(e.factors, 2 * channels + block * 16)
    to = (block * e.pieces + piece) * 32
    first, second = load(e.sums, to), load(e.sums, to + 16)
    end, fours = at + count * 16, at + count // 4 * 64
    for i in range(at, fours, 64):
        a, p = _gradient_at(e, out, i, mean, scale, shift)
        b, q = _gradient_at(e, out, i + 16, mean, scale, shift)
        c, r = _gradient_at(e, out, i + 32, mean, scale, shift)
        d, s = _gradient_at(e, out, i + 48, mean, scale, shift)
        first = first + widen((a + b) + (c + d))
        second = second + widen(fused(a, p, b * q) + fused(c, r, d * s))
    for i in range(fours, end, 16):
        d, centred = _gradient_at(e, out, i, mean, scale, shift)
        first = first + widen(d)
        second = second + widen(d) * widen(centred)
    store(e.sums, to, first)
    store(e.sums, to + 16, second)


@inlined_jit
def _gradient_at(e, out, i, mean, scale, shift):
    """(d, x - mean) of the 16 channels at offset i: d, out where y > 0 and else 0, is also written to out."""
    x, zero = load(e.x, i), splat(np.float32(0))
    y = load(e.y, i) if e.y.size > 0 else normalised(x, mean, scale, shift)
    d = where_above(y, zero, load(out, i), zero)
    store(out, i, d)
    return d, x - mean
