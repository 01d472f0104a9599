"""The gradient of a convolution's weights: for every tap, outer products summed over all pixels."""

import functools

import numba

from kernels.batchnorm import channel_sums
from kernels.check import expect, expect_activations, expect_stored
from kernels.division import flattened, is_exchanged, is_pointwise, part_count
from kernels.input_norm import input_operand
from kernels.jit import parallel_jit
from kernels.layout import BF16, lanes_of
from kernels.pair_weight_gradient import pair_weight_gradient
from kernels.ranges import nth_range
from kernels.registers import HELD
from kernels.scratch import PARTIAL_DW, scratch
from kernels.scratch_sizes import partial_dw, transposed_weights
from kernels.sizes import convolved_size
from kernels.weight_gradient_rows import add_pieces, add_rows, add_transposed
from kernels.winograd import winograd_backward_weights
from kernels.winograd_division import uses_winograd

BAND_BYTES = 256 << 10  # of the smaller operand in a band: it is read once for every block of the other


def conv_backward_weights(x, dy, dw, dbias=None, stride=1, pad=0, norm=None, *, winograd="auto"):
    """dw[k, c, r, s] += sum over n, h, w of x[n, c, h * stride - pad + r, ...] * dy[n, k, h, w].

    x            activation (C/16, H, W, N, 16), or of few channels
    dy           activation (K/16, H', W', N, 16), the gradient of the result
    dw           weights, added to in place
    dbias        vector, to which the sums of dy are added in place (None: there is no bias)
    stride, pad  pixels
    norm         as in `conv_forward`
    winograd     the mode of `uses_winograd`

    Arrays are as `layout` stores them; dw and dbias are float32. Raises ValueError on shapes that do not fit.
    """
    expect_activations(x=(x, 5), dy=(dy, 5))
    expect_stored(dw=(dw, 6))
    k_blocks, c_blocks, rows, cols, lanes, _ = dw.shape
    expect(x.shape[0] == c_blocks and x.shape[4] >= lanes, f"x {x.shape} has other channels than dw {dw.shape}")
    size = (convolved_size(x.shape[1 + i], dw.shape[2 + i], stride, pad) for i in (0, 1))
    expected = (k_blocks, *size, x.shape[3], 16)
    expect(dy.shape == expected, f"dy is {dy.shape}, expected {expected}")
    if dbias is not None:
        dbias += channel_sums(dy)[0].astype(dbias.dtype)
    bf16 = x.dtype == BF16
    fits = x.shape[4] == lanes_of(lanes)
    expect(fits or not bf16, f"x {x.shape} has other lanes than dw {dw.shape}, expected {lanes_of(lanes)}")
    by_winograd = uses_winograd(winograd, dw.shape, dy.shape, stride, pad, bf16)
    x, factors = input_operand(x, norm, by_winograd)
    if by_winograd:
        return winograd_backward_weights(x, dy, dw, factors)
    if is_pointwise(dw.shape, stride, pad):  # the pixels of a row count as images
        x, dy = (a.reshape(flattened(a.shape, bf16)) for a in (x, dy))
    partial = scratch(PARTIAL_DW, partial_dw(dw.shape, dy.shape, bf16))
    if bf16 and is_exchanged(dw.shape, dy.shape, stride, pad):
        pair_weight_gradient(dy, x, transposed_weights(dw.shape), partial, stride, pad)
        add_transposed(partial.reshape(-1, c_blocks, k_blocks, 16, 16), dw.reshape(k_blocks, c_blocks, 16, 16))
        return
    if bf16:
        pair_weight_gradient(x, dy, dw.shape, partial, stride, pad)
    else:
        k_parts = part_count(k_blocks, len(partial))
        _outer_for(lanes, x.shape[4])(x, dy, dw, partial, stride, pad, rows, cols, k_parts)
    add_pieces(partial, dw.reshape(-1))


@functools.cache
def _outer_for(lanes, pitch):
    """The kernel for weights with `lanes` inputs in a block, and an input whose blocks are `pitch` wide. These ints are
    literals inside the kernel, and part of its key in the cache.
    """

    blocks = HELD.outer_blocks

    @parallel_jit
    def _outer(x, dy, dw, partial, stride, pad, rows, cols, k_parts):
        """The gradient of weights of each piece, a range of rows of dy.

        x, dy, dw    as `layout` stores them; of dw only the shape counts
        partial      the result (pieces, dw.size)
        stride, pad  pixels
        rows, cols   of the kernel
        k_parts      parts of the blocks of outputs
        """
        c_blocks, h_in, w_in, images = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
        k_blocks, h_out, w_out = dy.shape[0], dy.shape[1], dy.shape[2]
        pieces, size = partial.shape
        xf, yf, pf = x.reshape(-1), dy.reshape(-1), partial.reshape(-1)
        x_row, y_row = w_in * images * pitch, w_out * images * 16
        pair_size = rows * cols * lanes * 16  # weights of a pair of blocks
        k_size = c_blocks * pair_size
        k_is_outer = k_blocks >= c_blocks
        band = max(1, BAND_BYTES // (min(c_blocks * x_row * stride, k_blocks * y_row) * 4))
        for task in numba.prange(pieces * k_parts):
            piece, part = task // k_parts, task % k_parts
            k_first, k_last = nth_range(part, k_parts, k_blocks)
            h_first, h_last = nth_range(piece, pieces, h_out)
            pf[piece * size + k_first * k_size : piece * size + k_last * k_size] = 0
            for top in range(h_first, h_last, band):
                bottom = min(top + band, h_last)
                groups = (k_last - k_first + blocks - 1) // blocks
                for pair in range(groups * c_blocks):
                    if k_is_outer:
                        k, c = k_first + pair // c_blocks * blocks, pair % c_blocks
                    else:
                        k, c = k_first + pair % groups * blocks, pair // groups
                    if k + blocks <= k_last:
                        add_rows(
                            lanes, blocks, pitch, 1, xf, c * h_in * x_row, h_in, w_in,
                            yf, k * h_out * y_row, h_out * y_row, top, bottom, w_out, images,
                            pf, piece * size + k * k_size + c * pair_size, k_size, stride, pad, rows, cols)  # fmt: skip
                    else:
                        for k1 in range(k, k_last):
                            add_rows(
                                lanes, 1, pitch, 1, xf, c * h_in * x_row, h_in, w_in,
                                yf, k1 * h_out * y_row, 0, top, bottom, w_out, images,
                                pf, piece * size + k1 * k_size + c * pair_size, 0, stride, pad, rows, cols)  # fmt: skip

    return _outer
