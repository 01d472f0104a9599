"""The loop nests shared by the forward pass and the gradient of data: sums of taps over an image.

With the images of a batch innermost, no map needs a padded border, and the taps that fall outside an
image are not computed at all: on a 7x7 map a 3x3 kernel saves 18 % of its products.
"""

import functools

import numba

from kernels.division import FEW_PIXELS, PIXELS, is_pointwise, part_count, pointwise_piece
from kernels.epilogue import NO_EPILOGUE, apply_epilogue, reduce_pieces, with_sums
from kernels.jit import inlined_jit, parallel_jit
from kernels.ranges import nth_range
from kernels.taps import taps
from kernels.tiles import product_tile
from kernels.winograd import winograd_convolve
from kernels.winograd_division import convolution_pieces, uses_winograd


def convolve(x, w, y, scale, offset, direction, divisor, accumulate=False, epilogue=NO_EPILOGUE, sums=False,
             winograd="auto"):  # fmt: skip
    """y[k, h, w, n] (+)= sum over c and taps of x[c, tap's pixel, n] * w[k, c, tap]; x, w, y as `layout` stores them.

    A tap's row (and column) in x is (h * scale + offset + direction * tap) / divisor, where that is a row of x.

    scale, offset, direction, divisor   stride, -pad, 1, 1: a forward pass; 1, pad, -1, stride: a gradient of data
    accumulate   add to y
    epilogue     an `Epilogue`, applied to y
    sums         return the epilogue's sums over all pixels, float64 (2, channels); else None
    winograd     the mode of `uses_winograd`
    """
    k_blocks, c_blocks, rows, cols, lanes, _ = w.shape
    stride, pad = scale * divisor, abs(offset)  # one of scale and divisor is 1
    by_winograd = uses_winograd(winograd, w.shape, y.shape, stride, pad)
    pieces = convolution_pieces(w.shape, y.shape, stride, pad, by_winograd)
    if sums:
        epilogue = with_sums(epilogue, k_blocks, pieces)
    k_parts = part_count(k_blocks, pieces)
    if by_winograd:
        winograd_convolve(x, w, y, direction < 0, accumulate, epilogue)
    elif is_pointwise(w.shape, stride, pad):
        x, y = x.reshape(c_blocks, -1), y.reshape(k_blocks, -1)
        _pointwise(x, w.reshape(-1), y, pointwise_piece(y.shape[1] // 16), pieces, k_parts, accumulate, epilogue)
    else:
        kernel = _convolve_for(lanes, x.shape[4])
        kernel(x, w.reshape(-1), y, scale, offset, direction, divisor, rows, cols, k_parts, accumulate, epilogue)
    return reduce_pieces(epilogue.sums, epilogue.pieces) if sums else None


@inlined_jit
def _products(lanes, pitch, x, x0, x_block, x_row, x_col, w, w0, w_block, w_row, w_col,
              y, y0, c_blocks, rows, cols, accumulate, pixels):  # fmt: skip
    """`product_tile`, whose arguments these are, for any number of pixels: large tiles, and small ones for the rest."""
    done = 0
    while done + PIXELS <= pixels:
        product_tile(PIXELS, lanes, pitch, x, x0 + done * pitch, x_block, x_row, x_col, w, w0, w_block, w_row, w_col,
                     y, y0 + done * 16, c_blocks, rows, cols, accumulate)  # fmt: skip
        done += PIXELS
    while done + FEW_PIXELS <= pixels:
        product_tile(FEW_PIXELS, lanes, pitch, x, x0 + done * pitch, x_block, x_row, x_col,
                     w, w0, w_block, w_row, w_col, y, y0 + done * 16, c_blocks, rows, cols, accumulate)  # fmt: skip
        done += FEW_PIXELS
    while done < pixels:
        product_tile(1, lanes, pitch, x, x0 + done * pitch, x_block, x_row, x_col, w, w0, w_block, w_row, w_col,
                     y, y0 + done * 16, c_blocks, rows, cols, accumulate)  # fmt: skip
        done += 1


@parallel_jit
def _pointwise(x, w, y, piece_pixels, pieces, k_parts, accumulate, epilogue):
    """A 1x1 convolution of stride 1. A piece stays in the cache while all its outputs are computed.

    x, y          the input (c_blocks, pixels * 16) and the result (k_blocks, pixels * 16): pixels of all images
    w             weights (k_blocks, c_blocks, 16, 16), flat
    piece_pixels  of a piece; the last of the `pieces` may have less
    k_parts       parts of the blocks of outputs
    accumulate    add to y
    epilogue      an `Epilogue`
    """
    c_blocks, k_blocks, pixels = x.shape[0], y.shape[0], y.shape[1] // 16
    xf, yf = x.reshape(-1), y.reshape(-1)
    for task in numba.prange(pieces * k_parts):
        piece, part = task // k_parts, task % k_parts
        first, last = piece * piece_pixels, min(piece * piece_pixels + piece_pixels, pixels)
        k_first, k_last = nth_range(part, k_parts, k_blocks)
        for k in range(k_first, k_last):
            _products(16, 16, xf, first * 16, pixels * 16, 0, 0, w, k * c_blocks * 256, 256, 0, 0,
                      yf, (k * pixels + first) * 16, c_blocks, 1, 1, accumulate, last - first)  # fmt: skip
            apply_epilogue(epilogue, yf, (k * pixels + first) * 16, last - first, k, piece)


@functools.cache
def _convolve_for(lanes, pitch):
    """The kernel for weights with `lanes` inputs in a block, and an input whose blocks are `pitch` wide. These ints are
    literals inside the kernel, and part of its key in the cache.
    """

    @parallel_jit
    def _convolve(x, w, y, scale, offset, direction, divisor, rows, cols, k_parts, accumulate, epilogue):
        """A direct convolution, a row of the result a piece. Arguments as those of `convolve`, but:

        w           weights (k_blocks, c_blocks, rows, cols, lanes, 16), flat
        rows, cols  of the kernel
        k_parts     parts of the blocks of outputs
        """
        c_blocks, h_in, w_in, images = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
        k_blocks, h_out, w_out = y.shape[0], y.shape[1], y.shape[2]
        xf, yf = x.reshape(-1), y.reshape(-1)
        x_pixel, x_row, x_block = images * pitch, w_in * images * pitch, h_in * w_in * images * pitch
        w_tap, w_block = lanes * 16, rows * cols * lanes * 16
        for task in numba.prange(h_out * k_parts):
            h, part = task // k_parts, task % k_parts
            r, n_rows, h_first = taps(h, scale, offset, direction, divisor, rows, h_in)
            k_first, k_last = nth_range(part, k_parts, k_blocks)
            for k in range(k_first, k_last):
                column = 0
                while column < w_out:
                    # s: the first tap of the row that meets the image; w_first: the input column that it reads
                    s, n_cols, w_first = taps(column, scale, offset, direction, divisor, cols, w_in)
                    following = column + 1
                    while following < w_out and scale == divisor:
                        # at stride 1, columns with the same taps are one run of pixels
                        s_next, n_next, _ = taps(following, scale, offset, direction, divisor, cols, w_in)
                        if s_next != s or n_next != n_cols:
                            break
                        following += 1
                    run = (following - column) * images
                    y0 = ((k * h_out + h) * w_out + column) * images * 16
                    x0 = h_first * x_row + w_first * x_pixel
                    w0 = k * c_blocks * w_block + (r * cols + s) * w_tap
                    column = following
                    if n_rows * n_cols == 0:
                        if not accumulate:
                            yf[y0 : y0 + run * 16] = 0
                        continue
                    _products(
                        lanes, pitch, xf, x0, x_block, direction * x_row, direction * x_pixel,
                        w, w0, w_block, divisor * cols * w_tap, divisor * w_tap,
                        yf, y0, c_blocks, n_rows, n_cols, accumulate, run)  # fmt: skip
                apply_epilogue(epilogue, yf, (k * h_out + h) * w_out * images * 16, w_out * images, k, h)

    return _convolve
