"""What direct gradients of weights share: the taps of some rows of dy, and the sum over pieces."""

import numba

from kernels.jit import inlined_jit, parallel_jit
from kernels.tiles import add_transposed_tile, outer_tile


@inlined_jit
def add_rows(lanes, blocks, pitch, group, x, x0, h_in, w_in, dy, dy0, dy_k, top, bottom, w_out,
             images, dw, dw0, dw_k, stride, pad, rows, cols):  # fmt: skip
    """Add the gradient of the weights of one block of inputs and some of outputs from some rows of dy. Arrays are flat.

    lanes, blocks, pitch   literals, as in `outer_tile`
    group          images whose products are added at once: 1, or 2 of bf16
    x, x0          the input, and the offset of its block (h_in, w_in, images, pitch)
    dy, dy0, dy_k  the gradient of the result, the offset of its first block (height, w_out, images, 16), and the step
                   to the next
    top, bottom    the rows of dy are top .. bottom - 1
    dw, dw0, dw_k  the gradient of weights, the offset of the first pair's (rows, cols, lanes, 16), and the step to the
                   next block of outputs
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
                count, run = last - first, images // group
                if stride == 1:
                    count, run = 1, count * run
                outer_tile(
                    lanes, blocks, pitch,
                    x, x0 + h_x * x_row + (first * stride - pad + s) * x_pixel, stride * x_pixel,
                    dy, dy0 + h * y_row + first * images * 16, dy_k, images * 16,
                    dw, dw0 + (r * cols + s) * lanes * 16, dw_k, count, run)  # fmt: skip


@parallel_jit
def add_pieces(partial, dw):
    """dw += the sum of partial (pieces, dw.size) over its pieces, in their order."""
    pieces = partial.shape[0]
    for i in numba.prange(dw.size):
        total = partial[0, i]
        for piece in range(1, pieces):
            total += partial[piece, i]
        dw[i] += total


@parallel_jit
def add_transposed(partial, dw):
    """The same where the pieces have inputs and outputs exchanged.

    partial  (pieces, C/16, K/16, 16, 16)
    dw       (K/16, C/16, 16, 16)
    """
    pieces, c_blocks, k_blocks = partial.shape[:3]
    source, out = partial.reshape(-1), dw.reshape(-1)
    for task in numba.prange(k_blocks * c_blocks):
        k, c = task // c_blocks, task % c_blocks
        for piece in range(pieces):
            add_transposed_tile(source, ((piece * c_blocks + c) * k_blocks + k) * 256, out, task * 256)
