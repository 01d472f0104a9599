"""What a convolution does to its result while that is still in a core's cache, instead of a pass of its own later.

Forward: the sums of a batch norm's statistics; or a bias, a residual and a ReLU, with which a folded batch norm ends.
Backward: the ReLU that made the convolution's input, and the sums that the batch norm before it needs.
"""

from typing import NamedTuple

import numpy as np

from kernels.check import expect
from kernels.group_sums import GROUP, gradient_moments, moments, through_relu
from kernels.jit import inlined_jit
from kernels.layout import BF16
from kernels.scratch import EPILOGUE_SUMS, scratch
from kernels.scratch_sizes import epilogue_sums
from kernels.vector import load, splat, store, where_below, widen

_NO32, _NO64 = np.empty(0, np.float32), np.empty(0, np.float64)
_NONE = {dtype: np.empty(0, dtype) for dtype in (np.float32, BF16.type)}  # of an activation


class FusedBatchNorm(NamedTuple):
    """The batch norm y = relu(norm(x) [+ residual]) that made a convolution's input, for `conv_backward_data`, which
    applies the ReLU's backward pass to the gradient of y and sums it.

    x, y         activations; y may be None without a residual, because it follows from x then
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

    residual, bias  added: of the result's shape, and (channels,)
    floor           the least value: 0 for a ReLU; only with a bias
    x, gate         for the backward pass through a ReLU, of the result's shape: the input of the batch norm before the
                    ReLU; what decides where the ReLU lets the gradient pass
    factors         (4, channels): the mean of x; mean, scale and shift with which the gate's normalised value is
                    positive there
    sums, pieces    float64 (blocks, pieces, 2, 16): sums of each piece are added to; their number
    """

    residual: np.ndarray
    x: np.ndarray
    gate: np.ndarray
    bias: np.ndarray = _NO32
    floor: float = np.float32(-np.inf)
    factors: np.ndarray = _NO32
    sums: np.ndarray = _NO64
    pieces: int = 0


def no_epilogue(dtype):
    """The epilogue that does nothing to activations of a dtype."""
    return Epilogue(*[_NONE[np.dtype(dtype).type]] * 3)


def bias_epilogue(dtype, bias, residual=None, relu=False):
    """The epilogue that adds a bias and a residual, and clips with `relu`."""
    added = {} if residual is None else {"residual": residual.reshape(-1)}
    return no_epilogue(dtype)._replace(bias=bias, floor=np.float32(0 if relu else -np.inf), **added)


def backward_epilogue(norm):
    """The epilogue of the backward pass through the ReLU of a FusedBatchNorm, with sums. The ReLU's output decides
    where the gradient passes: y where a residual was added, else the normalised x, which is read in any case.
    """
    mean, scale, shift = norm_factors(*norm[2:7])
    gate, *factors = norm.x, mean, scale, shift
    if norm.residual:
        expect(norm.y.shape == norm.x.shape, f"fused_norm has y {norm.y.shape} and x {norm.x.shape}")
        gate, *factors = norm.y, np.zeros_like(mean), np.ones_like(mean), np.zeros_like(mean)
    return no_epilogue(norm.x.dtype)._replace(
        x=norm.x.reshape(-1), gate=gate.reshape(-1), factors=np.concatenate([mean, *factors]))  # fmt: skip


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
    end, groups = at + count * 16, at + count // GROUP * GROUP * 16
    for i in range(at, groups, GROUP * 16):
        total, squares = moments(out, i)
        first, second = first + total, second + squares
    for i in range(groups, end, 16):
        value = widen(load(out, i))
        first, second = first + value, second + value * value
    store(e.sums, to, first)
    store(e.sums, to + 16, second)


@inlined_jit
def _add_bias(e, out, at, count, block):
    """out = max(out + bias [+ residual], floor), and NaN where that is NaN."""
    bias, floor, residual = load(e.bias, block * 16), splat(e.floor), e.residual
    if residual.size > 0:
        for i in range(at, at + count * 16, 16):
            value = load(out, i) + bias + load(residual, i)
            store(out, i, where_below(value, floor, floor, value))
    else:
        for i in range(at, at + count * 16, 16):
            value = load(out, i) + bias
            store(out, i, where_below(value, floor, floor, value))


@inlined_jit
def _backward_through_relu(e, out, at, count, block, piece):
    """Backward: out becomes d, the gradient before the ReLU; the sums of d and of d (x - mean) are added to."""
    channels = e.factors.size // 4
    centre, mean = load(e.factors, block * 16), load(e.factors, channels + block * 16)
    scale, shift = load(e.factors, 2 * channels + block * 16), load(e.factors, 3 * channels + block * 16)
    x, gate = e.x, e.gate
    to = (block * e.pieces + piece) * 32
    first, second = load(e.sums, to), load(e.sums, to + 16)
    end, groups = at + count * 16, at + count // GROUP * GROUP * 16
    for i in range(at, groups, GROUP * 16):
        total, centred = gradient_moments(out, x, gate, i, centre, mean, scale, shift)
        first, second = first + total, second + centred
    for i in range(groups, end, 16):
        d = through_relu(out, gate, i, mean, scale, shift)
        first, second = first + widen(d), second + widen(d) * widen(load(x, i) - centre)
    store(e.sums, to, first)
    store(e.sums, to + 16, second)
