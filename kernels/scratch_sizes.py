"""The working memory that a convolution needs, from shapes alone: the kernels ask for it, and `bin/plan` predicts it.

Shapes are as `layout` stores arrays: w of weights, dx of an input, y and dy of a result. A need is {Purpose: shape}.
"""

from math import prod

import numpy as np

from kernels.division import (
    PAIR_BLOCKS,
    copy_step,
    flattened,
    is_exchanged,
    is_pointwise,
    pair_band,
    pair_parts,
    reads_stored,
    weight_gradient_pieces,
)
from kernels.layout import lanes_of
from kernels.scratch import (
    EPILOGUE_SUMS,
    NORMALISED,
    NORMALISED_BF16,
    PAIR_INPUTS,
    PAIR_OUTPUTS,
    PAIR_WEIGHTS,
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

KEPT = (PAIR_WEIGHTS, WINOGRAD_WEIGHTS)  # by an inference: made of weights alone, in `conv_inference`


def forward(w, y, stride, pad, threads, winograd="auto", sums=True, bf16=False):
    """The need of `conv_forward` with statistics, or without `sums` of `conv_inference`, on so many threads, of an
    input in float32 or in bf16.
    """
    return _convolution(w, w, y, stride, pad, threads, winograd, sums, bf16)


def backward_data(w, dx, stride, pad, threads, winograd="auto", sums=True, bf16=False):
    """The need of `conv_backward_data`, with the `sums` of a `fused_norm` or without: a convolution with transposed
    weights.
    """
    transposed = transposed_weights(w)
    need = _convolution(w, transposed, dx, stride, pad, threads, winograd, sums, bf16)
    return need if PAIR_WEIGHTS in need else {TRANSPOSED_WEIGHTS: transposed, **need}


def _convolution(stored, w, y, stride, pad, threads, winograd, sums, bf16):
    by_winograd = uses_winograd(winograd, w, y, stride, pad, bf16)
    found = winograd_convolution(w, y, threads) if by_winograd else {}
    if bf16 and not by_winograd:
        found[PAIR_WEIGHTS] = pair_weights(stored, stored is not w)
    if sums:
        found[EPILOGUE_SUMS] = epilogue_sums(w[0], convolution_pieces(w, y, stride, pad, by_winograd))
    return found


def normalised_input(w, x, y, stride, pad, winograd="auto", bf16=False):
    """The need of `conv_forward` and `conv_backward_weights` with a `norm`, besides theirs without."""
    purpose = NORMALISED_BF16 if bf16 else NORMALISED
    return {} if uses_winograd(winograd, w, y, stride, pad, bf16) else {purpose: x}


def backward_weights(w, dy, stride, pad, winograd="auto", bf16=False, threads=1):
    """The need of `conv_backward_weights`."""
    if uses_winograd(winograd, w, dy, stride, pad, bf16):
        return winograd_weight_gradient(w, dy)
    if is_pointwise(w, stride, pad):
        dy = flattened(dy, bf16)
    if bf16 and is_exchanged(w, dy, stride, pad):
        w = transposed_weights(w)
    need = {PARTIAL_DW: partial_dw(w, dy, bf16)}
    return need | pair_rows(w, dy, stride, pad, threads) if bf16 else need


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


def pair_weights(w, backward):
    """The shape of PAIR_WEIGHTS: weights, or their transpose, in pairs of inputs."""
    if backward:
        return *transposed_weights(w)[:4], 8, 16, 2
    return *w[:4], (w[4] + 1) // 2, 16, 2


def partial_dw(w, dy, bf16=False):
    """The shape of PARTIAL_DW: as many numbers as weights, for each piece of dy's rows."""
    return weight_gradient_pieces(w, dy[1], bf16), prod(w)


def pair_rows(w, dy, stride, pad, threads):
    """The shapes of PAIR_INPUTS and PAIR_OUTPUTS: rows of a band for each thread, in pairs of pixels."""
    k_blocks, c_blocks, rows, cols, lanes, _ = w
    _, stride = copy_step(w, stride, pad)
    band = pair_band(w, dy, stride)
    _, of_part = pair_parts(k_blocks, weight_gradient_pieces(w, dy[1], True), PAIR_BLOCKS)
    height = (band - 1) * stride + rows
    width = dy[2] * stride + cols - 1 - 2 * pad  # of the input, at most
    even = (dy[3] + 1) // 2 * 2
    return {PAIR_INPUTS: (threads, c_blocks * height * width * even * lanes_of(lanes)),
            PAIR_OUTPUTS: (threads, 0 if reads_stored(w, dy, pad) else of_part * band * dy[2] * even * 16)}  # fmt: skip


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
