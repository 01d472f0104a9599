"""The working memory that a convolution needs, from shapes alone: the kernels ask for it, and `bin/plan` predicts it.

Shapes are as `layout` stores arrays: w of weights, dx of an input, y and dy of a result. A need is {Purpose: shape}.
"""

from math import prod

import numpy as np

from kernels.division import weight_gradient_pieces
from kernels.scratch import (
    EPILOGUE_SUMS,
    PARTIAL_DW,
    TRANSPOSED_WEIGHTS,
    WINOGRAD_INPUTS,
    WINOGRAD_OUTPUTS,
    WINOGRAD_WEIGHTS,
)
from kernels.winograd_division import (
    POINTS,
    convolution_pieces,
    convolution_tiling,
    fits_cache,
    uses_winograd,
    weight_gradient_tiling,
)


def forward(w, y, stride, pad, threads, winograd="auto", sums=True):
    """The need of `conv_forward` with statistics, or without `sums` of `conv_inference`, on so many threads."""
    by_winograd = uses_winograd(winograd, w, y, stride, pad)
    found = winograd_convolution(w, y, threads) if by_winograd else {}
    if sums:
        found[EPILOGUE_SUMS] = epilogue_sums(w[0], convolution_pieces(w, y, stride, pad, by_winograd))
    return found


def backward_data(w, dx, stride, pad, threads, winograd="auto", sums=True):
    """The need of `conv_backward_data`, with the `sums` of a `fused_norm` or without: a convolution with transposed
    weights.
    """
    transposed = transposed_weights(w)
    return {TRANSPOSED_WEIGHTS: transposed, **forward(transposed, dx, stride, pad, threads, winograd, sums)}


def backward_weights(w, dy, stride, pad, winograd="auto"):
    """The need of `conv_backward_weights`."""
    if uses_winograd(winograd, w, dy, stride, pad):
        return winograd_weight_gradient(w, dy)
    return {PARTIAL_DW: partial_dw(w, dy)}


def largest(needs):
    """{name of the purpose: bytes}, the most of each in any of these needs."""
    found = {}
    for need in needs:
        for purpose, shape in need.items():
            size = prod(shape) * np.dtype(purpose.dtype).itemsize
            found[purpose.name] = max(found.get(purpose.name, 0), size)
    return found


def transposed_weights(w):
    """The shape of TRANSPOSED_WEIGHTS. Few inputs are filled up to a block."""
    k_blocks, c_blocks, rows, cols, _, _ = w
    return c_blocks, k_blocks, rows, cols, 16, 16


def partial_dw(w, dy):
    """The shape of PARTIAL_DW: as many numbers as weights, for each piece of dy's rows."""
    return weight_gradient_pieces(w, dy[1]), prod(w)


def epilogue_sums(blocks, pieces):
    """The shape of EPILOGUE_SUMS: two for each channel and piece."""
    return blocks, pieces, 2, 16


def winograd_convolution(w, y, threads):
    """The need of Winograd's algorithm: points of all tiles, or where those of a task fit into a core's cache, of a
    task on each thread.
    """
    return _winograd(convolution_tiling(w, y), threads if fits_cache(w) else 1)


def winograd_weight_gradient(w, dy):
    """The need of Winograd's gradient of weights: points of the tiles of a round."""
    return _winograd(weight_gradient_tiling(w, dy), 1)


def _winograd(tiling, copies):
    return {
        WINOGRAD_WEIGHTS: (POINTS, tiling.k_blocks, tiling.c_blocks, 16, 16),
        WINOGRAD_INPUTS: (copies, POINTS * tiling.x_plane),
        WINOGRAD_OUTPUTS: (copies, POINTS * tiling.y_plane),
    }
