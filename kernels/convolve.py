"""The loop nests shared by the forward pass and the gradient of data: sums of taps over an image.

With the images of a batch innermost, no map needs a padded border, and the taps that fall outside an
image are not computed at all: on a 7x7 map a 3x3 kernel saves 18 % of its products.
"""

import functools

import numba

from kernels.division import is_pointwise, part_count, pointwise_piece
from kernels.epilogue import apply_epilogue, reduce_pieces, with_sums
from kernels.input_norm import input_operand
from kernels.jit import inlined_jit, parallel_jit
from kernels.layout import BF16
from kernels.operands import weights_operand
from kernels.ranges import nth_range
from kernels.registers import TILE
from kernels.scratch_sizes import transposed_weights
from kernels.taps import taps
from kernels.tiles import product_tile
from kernels.winograd import winograd_convolve
from kernels.winograd_division import convolution_pieces, uses_winograd


def convolve(x, w, y, scale, offset, direction, divisor, accumulate, epilogue, sums=False, winograd="auto", made=None,
             norm=None):  # fmt: skip
    """y[k, h, w, n] (+)= sum over c and taps of x[c, tap's pixel, n] * w[k, c, tap]; x, w, y as `layout` stores them.

    A tap's row (and column) in x is (h * scale + offset + direction * tap) / divisor, where that is a row of x.

    x            float32, or bf16: products are then taken of weights rounded to bf16, and summed in float32
    w            weights; for a gradient of data, those of the forward pass: k is then one of its inputs
    scale, offset, direction, divisor   stride, -pad, 1, 1: a forward pass; 1, pad, -1, stride: a gradient of data
    accumulate   add to y
    epilogue     an `Epilogue`, applied to y
    sums         return the epilogue's sums over all pixels, float64 (2, channels); else None
    winograd     the mode of `uses_winograd`
    made         a dict that keeps what is made of w for the next call with the same w (None: it is made again)
    norm         an `InputNorm` that x goes through (None: x is the input itself)
    """
    backward = direction < 0
    shape = transposed_weights(w.shape) if backward else w.shape
    k_blocks, c_blocks, rows, cols = shape[:4]
    stride, pad = scale * divisor, abs(offset)  # one of scale and divisor is 1
    bf16 = x.dtype == BF16
    by_winograd = uses_winograd(winograd, shape, y.shape, stride, pad, bf16)
    pieces = convolution_pieces(shape, y.shape, stride, pad, by_winograd)
    if sums:
        epilogue = with_sums(epilogue, k_blocks, pieces)
    w = weights_operand(w, backward, x.dtype, by_winograd, made)
    x, factors = input_operand(x, norm, by_winograd)
    if by_winograd:
        winograd_convolve(x, w, y, factors, backward, accumulate, epilogue, made)
    else:
        k_parts = part_count(-(-k_blocks // TILE.blocks), pieces)
        if is_pointwise(shape, stride, pad):
            x, y = x.reshape(c_blocks, -1), y.reshape(k_blocks, -1)
            kernel, piece = _pointwise_for(*TILE), pointwise_piece(y.shape[1] // 16)
            kernel(x, w.reshape(-1), y, piece, pieces, k_parts, accumulate, epilogue)
        else:
            kernel = _convolve_for(w.shape[4] * w[0, 0, 0, 0, 0].size // 16, x.shape[4], *TILE)
            kernel(x, w.reshape(-1), y, scale, offset, direction, divisor, rows, cols, k_parts, accumulate, epilogue)
    return reduce_pieces(epilogue.sums, epilogue.pieces) if sums else None


@inlined_jit
def _products(pixels, few, blocks, lanes, pitch, x, x0, x_block, x_row, x_col, w, w0, w_k, w_block, w_row, w_col,
              y, y0, y_k, c_blocks, rows, cols, accumulate, count):  # fmt: skip
    """`product_tile`, whose arguments these are, for any number `count` of pixels: tiles of `pixels`, and for the rest
    tiles of `few` and of one.
    """
    done = 0
    while done + pixels <= count:
        product_tile(pixels, blocks, lanes, pitch, x, x0 + done * pitch, x_block, x_row, x_col, w, w0, w_k, w_block,
                     w_row, w_col, y, y0 + done * 16, y_k, c_blocks, rows, cols, accumulate)  # fmt: skip
        done += pixels
    while done + few <= count:
        product_tile(few, blocks, lanes, pitch, x, x0 + done * pitch, x_block, x_row, x_col, w, w0, w_k, w_block,
                     w_row, w_col, y, y0 + done * 16, y_k, c_blocks, rows, cols, accumulate)  # fmt: skip
        done += few
    while done < count:
        product_tile(1, blocks, lanes, pitch, x, x0 + done * pitch, x_block, x_row, x_col, w, w0, w_k, w_block,
                     w_row, w_col, y, y0 + done * 16, y_k, c_blocks, rows, cols, accumulate)  # fmt: skip
        done += 1


@functools.cache
def _pointwise_for(pixels, few, blocks):
    """The kernel for register tiles of a `Tile`. These ints are literals inside the kernel, and part of its key in the
    cache.
    """
    several = blocks > 1

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
        c_blocks, k_blocks, all_pixels = x.shape[0], y.shape[0], y.shape[1] // 16
        xf, yf = x.reshape(-1), y.reshape(-1)
        for task in numba.prange(pieces * k_parts):
            piece, part = task // k_parts, task % k_parts
            first = piece * piece_pixels
            count = min(piece_pixels, all_pixels - first)
            k, k_last = nth_range(part, k_parts, (k_blocks + blocks - 1) // blocks)
            k, k_last = k * blocks, min(k_last * blocks, k_blocks)
            while k < k_last:
                x0, w0, y0 = first * 16, k * c_blocks * 256, (k * all_pixels + first) * 16
                done = blocks
                if several and k + blocks > k_last:
                    done = 1
                    _products(few, 1, 1, 16, 16, xf, x0, all_pixels * 16, 0, 0, w, w0, 0, 256, 0, 0,
                              yf, y0, 0, c_blocks, 1, 1, accumulate, count)  # fmt: skip
                else:
                    _products(pixels, few, blocks, 16, 16, xf, x0, all_pixels * 16, 0, 0, w, w0, c_blocks * 256, 256, 0,
                              0, yf, y0, all_pixels * 16, c_blocks, 1, 1, accumulate, count)  # fmt: skip
                for _ in range(done):
                    apply_epilogue(epilogue, yf, (k * all_pixels + first) * 16, count, k, piece)
                    k += 1

    return _pointwise


@functools.cache
def _convolve_for(lanes, pitch, pixels, few, blocks):
    """The kernel for weights with `lanes` inputs in a block, an input whose blocks are `pitch` wide, and register tiles
    of a `Tile`.
    """
    several = blocks > 1

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
        w_tap, w_block, y_k = lanes * 16, rows * cols * lanes * 16, h_out * w_out * images * 16
        for task in numba.prange(h_out * k_parts):
            h, part = task // k_parts, task % k_parts
            r, n_rows, h_first = taps(h, scale, offset, direction, divisor, rows, h_in)
            k, k_last = nth_range(part, k_parts, (k_blocks + blocks - 1) // blocks)
            k, k_last = k * blocks, min(k_last * blocks, k_blocks)
            while k < k_last:
                done = 1 if k + blocks > k_last else blocks
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
                        for j in range(0 if accumulate else done):
                            yf[y0 + j * y_k : y0 + j * y_k + run * 16] = 0
                    elif several and done == 1:
                        _products(
                            few, 1, 1, lanes, pitch, xf, x0, x_block, direction * x_row, direction * x_pixel,
                            w, w0, 0, w_block, divisor * cols * w_tap, divisor * w_tap,
                            yf, y0, 0, c_blocks, n_rows, n_cols, accumulate, run)  # fmt: skip
                    else:
                        _products(
                            pixels, few, blocks, lanes, pitch, xf, x0, x_block, direction * x_row, direction * x_pixel,
                            w, w0, c_blocks * w_block, w_block, divisor * cols * w_tap, divisor * w_tap,
                            yf, y0, y_k, c_blocks, n_rows, n_cols, accumulate, run)  # fmt: skip
                for _ in range(done):
                    apply_epilogue(epilogue, yf, k * y_k + h * w_out * images * 16, w_out * images, k, h)
                    k += 1

    return _convolve
