"""The gradient of a convolution's weights: for every tap, outer products summed over all pixels."""

import functools

import numba

from kernels.batchnorm import channel_sums
from kernels.check import expect, expect_stored
from kernels.division import is_pointwise, part_count
from kernels.jit import inlined_jit, parallel_jit
from kernels.ranges import nth_range
from kernels.scratch import PARTIAL_DW, scratch
from kernels.scratch_sizes import partial_dw
from kernels.sizes import convolved_size
from kernels.tiles import outer_tile
from kernels.winograd import winograd_backward_weights
from kernels.winograd_division import uses_winograd

BAND_BYTES = 256 << 10  # of the smaller operand in a band: it is read once for every block of the other


def conv_backward_weights(x, dy, dw, dbias=None, stride=1, pad=0, *, winograd="auto"):
    """dw[k, c, r, s] += sum over n, h, w of x[n, c, h * stride - pad + r, ...] * dy[n, k, h, w].

    x            activation (C/16, H, W, N, 16), or of few channels
    dy           activation (K/16, H', W', N, 16), the gradient of the result
    dw           weights, added to in place
    dbias        vector, to which the sums of dy are added in place (None: there is no bias)
    stride, pad  pixels
    winograd     the mode of `uses_winograd`

    Arrays are float32, as `layout` stores them. Raises ValueError on shapes that do not fit.
    """
    expect_stored(x=(x, 5), dy=(dy, 5), dw=(dw, 6))
    k_blocks, c_blocks, rows, cols, lanes, _ = dw.shape
    expect(x.shape[0] == c_blocks and x.shape[4] >= lanes, f"x {x.shape} has other channels than dw {dw.shape}")
    size = (convolved_size(x.shape[1 + i], dw.shape[2 + i], stride, pad) for i in (0, 1))
    expected = (k_blocks, *size, x.shape[3], 16)
    expect(dy.shape == expected, f"dy is {dy.shape}, expected {expected}")
    if dbias is not None:
        dbias += channel_sums(dy)[0].astype(dbias.dtype)
    if uses_winograd(winograd, dw.shape, dy.shape, stride, pad):
        return winograd_backward_weights(x, dy, dw)
    if is_pointwise(dw.shape, stride, pad):  # the pixels of a row count as images
        x, dy = (a.reshape(a.shape[0], a.shape[1], 1, -1, a.shape[4]) for a in (x, dy))
    partial = scratch(PARTIAL_DW, partial_dw(dw.shape, dy.shape))
    k_parts = part_count(k_blocks, len(partial))
    _outer_for(lanes, x.shape[4])(x, dy, dw, partial, stride, pad, rows, cols, k_parts)


@functools.cache
def _outer_for(lanes, pitch):
    """The kernel for weights with `lanes` inputs in a block, and an input whose blocks are `pitch` wide. These ints are
    literals inside the kernel, and part of its key in the cache.
    """

    @parallel_jit
    def _outer(x, dy, dw, partial, stride, pad, rows, cols, k_parts):
        """dw += the gradient of weights: sums over each piece (a range of rows of dy) are taken in `partial`, and then
        over the pieces, in their order.

        x, dy, dw    as `layout` stores them
        partial      working memory (pieces, dw.size)
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
                k_count = k_last - k_first
                for pair in range(k_count * c_blocks):
                    if k_is_outer:
                        k, c = k_first + pair // c_blocks, pair % c_blocks
                    else:
                        k, c = k_first + pair % k_count, pair // k_count
                    _add_rows(
                        lanes, pitch, xf, c * h_in * x_row, h_in, w_in,
                        yf, k * h_out * y_row, top, bottom, w_out, images,
                        pf, piece * size + k * k_size + c * pair_size, stride, pad, rows, cols)  # fmt: skip
        wf = dw.reshape(-1)
        for row in numba.prange(k_blocks * c_blocks):
            for i in range(row * pair_size, (row + 1) * pair_size):
                total = pf[i]
                for piece in range(1, pieces):
                    total += pf[piece * size + i]
                wf[i] += total

    return _outer


@inlined_jit
def _add_rows(lanes, pitch, x, x0, h_in, w_in, dy, dy0, top, bottom, w_out, images, dw, dw0, stride, pad,
              rows, cols):  # fmt: skip
    """Add the gradient of the weights of one pair of blocks from some rows of dy. Arrays are flat.

    lanes, pitch   literals, as in `outer_tile`
    x, x0          the input, and the offset of its block (h_in, w_in, images, pitch)
    dy, dy0        the gradient of the result, and the offset of its block (height, w_out, images, 16)
    top, bottom    the rows of dy are top .. bottom - 1
    dw, dw0        the gradient of weights, and the offset of the pair's (rows, cols, lanes, 16)
    stride, pad, rows, cols   of the convolution, and of its kernel
    """
    x_pixel, x_row, y_row = images * pitch, w_in * images * pitch, w_out * images * 16
    for h in range(top, bottom):
        for r in range(rows):
            h_x = h * stride - pad + r
            if h_x < 0 or h_x >= h_in:
                continue
            for s in range(cols):
                # output columns whose input column w * stride - pad + s exists
                first = max(0, (pad - s + stride - 1) // stride)
                last = min(w_out, (w_in - 1 + pad - s) // stride + 1)
                if last <= first:
                    continue
                count, run = last - first, images
                if stride == 1:
                    count, run = 1, count * images
                outer_tile(
                    lanes, pitch, x, x0 + h_x * x_row + (first * stride - pad + s) * x_pixel, stride * x_pixel,
                    dy, dy0 + h * y_row + first * images * 16, images * 16,
                    dw, dw0 + (r * cols + s) * lanes * 16, count, run)  # fmt: skip
