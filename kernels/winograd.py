"""Winograd's F(4x4, 3x3) for 3x3 convolutions of stride 1: 36 products where a direct one takes 144.

The tiles (4x4 pixels of the result each, and the 6x6 pixels of the input that they need) are transformed, multiplied
point by point with the transformed weights, and transformed back. With few channels, where the transformed tiles of
a task fit into a core's cache, each task does all three; with many, all tasks do the first, then all the second, then
all the third. The gradient of data is the same convolution with transposed weights, whose taps are reversed; the
gradient of weights uses the transposed maps in reverse order.
"""

import numba

from kernels.jit import inlined_jit, jit, parallel_jit
from kernels.layout import BF16
from kernels.registers import HELD
from kernels.scratch import WINOGRAD_WEIGHTS, kept, scratch
from kernels.scratch_sizes import winograd_convolution, winograd_weight_gradient
from kernels.tiles import outer_tile, product_tile
from kernels.winograd_division import PIECE, POINTS, convolution_tiling, fits_cache, weight_gradient_tiling
from kernels.winograd_tiles import (
    apply_epilogue_to_tiles,
    transform_gradient,
    transform_input,
    transform_output,
    transform_weights,
    transform_weights_back,
)

PRODUCT_BLOCKS, OUTER_BLOCKS = HELD.product_blocks, HELD.outer_blocks  # of outputs, in a register tile


def winograd_convolve(x, w, y, factors, flip, accumulate, epilogue, made=None):
    """y (+)= the 3x3 convolution of x, padded by 1, with w, all arrays as `layout` stores them. Of x in bf16, weights
    are rounded to bf16 as well; all that is computed of both is float32.

    factors     of `input_operand`
    flip        rotate w by 180 degrees: for the gradient of data
    accumulate  add to y
    epilogue    an `Epilogue`, applied to y
    made        as in `convolve`
    """
    tiling = convolution_tiling(w.shape, y.shape)
    need = winograd_convolution(w.shape, y.shape, numba.get_num_threads())
    u, empty = kept(WINOGRAD_WEIGHTS, need.pop(WINOGRAD_WEIGHTS), made)
    if empty:
        transform_weights(w.reshape(-1), u.reshape(-1), tiling.k_blocks, tiling.c_blocks, flip, x.dtype == BF16)
    v, m = (scratch(purpose, shape) for purpose, shape in need.items())
    kernel = _in_cache if fits_cache(w.shape) else _in_phases
    kernel(x.reshape(-1), u.reshape(-1), y.reshape(-1), v, m, factors, tiling, accumulate, epilogue)


def winograd_backward_weights(x, dy, dw, factors):
    """dw += the gradient of the weights of a 3x3 convolution of x, padded by 1, all arrays as `layout` stores them;
    `factors` are those of `input_operand`.
    """
    tiling = weight_gradient_tiling(dw.shape, dy.shape)
    need = winograd_weight_gradient(dw.shape, dy.shape)
    du, v, m = (scratch(purpose, shape).reshape(-1) for purpose, shape in need.items())
    _in_rounds(x.reshape(-1), dy.reshape(-1), dw.reshape(-1), v, m, du, factors, tiling)


@parallel_jit
def _in_cache(x, u, y, v, m, factors, tiling, accumulate, epilogue):
    """A convolution; a task computes a piece, from the input to the result.

    x, y        the input (c_blocks, height, width, images, 16) and the result (k_blocks, ...), flat
    u           transformed weights (36, k_blocks, c_blocks, 16, 16), flat
    v, m        working memory for the points of a task's tiles: of the input (threads, 36 x_plane), of the result
                (threads, 36 y_plane)
    factors     of `input_operand`
    tiling      a `Tiling`, whose tiles_at_once is PIECE
    accumulate  add to y
    epilogue    an `Epilogue`
    """
    at_once = tiling.tiles_at_once
    for task in numba.prange(tiling.pieces):
        thread = numba.get_thread_id()
        vs, ms = v[thread], m[thread]
        first, last = task * at_once, min(task * at_once + at_once, tiling.tiles)
        for c in range(tiling.c_blocks):
            transform_input(x, c, factors, tiling, first, last, vs, c * at_once * 16)
        for point in range(POINTS):
            for k in range(0, tiling.k_blocks, PRODUCT_BLOCKS):
                _multiply(vs, ms, u, point, k, tiling)
        for k in range(tiling.k_blocks):
            transform_output(ms, k * at_once * 16, tiling, y, k, first, last, accumulate)
            apply_epilogue_to_tiles(epilogue, y, k, tiling, first, last, task)


@parallel_jit
def _in_phases(x, u, y, v, m, factors, tiling, accumulate, epilogue):
    """The same in three phases, one after another: a task transforms a piece of a block of the input, multiplies a
    block of outputs at one point, or transforms a piece of a block of the result. v (1, 36 x_plane) and m
    (1, 36 y_plane) hold the points of all tiles.
    """
    vs, ms = v[0], m[0]
    at_once = tiling.tiles_at_once
    for task in numba.prange(tiling.c_blocks * tiling.pieces):
        c, first = task // tiling.pieces, task % tiling.pieces * PIECE
        last = min(first + PIECE, tiling.tiles)
        transform_input(x, c, factors, tiling, first, last, vs, (c * at_once + first) * 16)
    groups = (tiling.k_blocks + PRODUCT_BLOCKS - 1) // PRODUCT_BLOCKS
    for task in numba.prange(POINTS * groups):
        _multiply(vs, ms, u, task // groups, task % groups * PRODUCT_BLOCKS, tiling)
    for task in numba.prange(tiling.k_blocks * tiling.pieces):
        k, piece = task // tiling.pieces, task % tiling.pieces
        first, last = piece * PIECE, min(piece * PIECE + PIECE, tiling.tiles)
        transform_output(ms, (k * at_once + first) * 16, tiling, y, k, first, last, accumulate)
        apply_epilogue_to_tiles(epilogue, y, k, tiling, first, last, piece)


@parallel_jit
def _in_rounds(x, dy, dw, v, m, du, factors, tiling):
    """dw += the gradient of weights, in rounds of `tiles_at_once` tiles: all tasks transform, then all multiply.

    x, dy   the input (c_blocks, height, width, images, 16) and the gradient of the result (k_blocks, ...), flat
    dw      the gradient of weights (k_blocks, c_blocks, 3, 3, 16, 16), flat
    v, m    working memory for the points of a round's tiles: of x (36 x_plane), of dy (36 y_plane)
    du      working memory for the points of dw (36, k_blocks, c_blocks, 16, 16), flat
    factors of `input_operand`, for x
    tiling  a `Tiling`
    """
    du[:] = 0
    c_blocks, k_blocks, at_once = tiling.c_blocks, tiling.k_blocks, tiling.tiles_at_once
    for begin in range(0, tiling.tiles, at_once):
        count = min(at_once, tiling.tiles - begin)
        pieces = (count + PIECE - 1) // PIECE
        for task in numba.prange((c_blocks + k_blocks) * pieces):
            block, first = task // pieces, task % pieces * PIECE
            last = min(first + PIECE, count)
            if block < c_blocks:
                at = (block * at_once + first) * 16
                transform_input(x, block, factors, tiling, begin + first, begin + last, v, at)
            else:
                block -= c_blocks
                at = (block * at_once + first) * 16
                transform_gradient(dy, block, tiling, begin + first, begin + last, m, at)
        groups = (k_blocks + OUTER_BLOCKS - 1) // OUTER_BLOCKS
        for task in numba.prange(POINTS * groups):
            point, k = task // groups, task % groups * OUTER_BLOCKS
            for c in range(c_blocks):
                if k + OUTER_BLOCKS <= k_blocks:
                    _outer_product(OUTER_BLOCKS, v, m, du, point, k, c, count, tiling)
                else:
                    for last in range(k, k_blocks):
                        _outer_product(1, v, m, du, point, last, c, count, tiling)
    transform_weights_back(du, dw, k_blocks, c_blocks)


@inlined_jit
def _outer_product(blocks, v, m, du, point, k, c, count, tiling):
    """du[point, k, c] += sum over `count` tiles of v[point, c, tile] m[point, k, tile], for `blocks` of outputs from k
    on, a literal. Arrays are flat.
    """
    at_once, du_k = tiling.tiles_at_once, tiling.c_blocks * 256
    outer_tile(
        16, blocks, 16, v, point * tiling.x_plane + c * at_once * 16, 0,
        m, point * tiling.y_plane + k * at_once * 16, at_once * 16, 0,
        du, (point * tiling.k_blocks + k) * du_k + c * 256, du_k, 1, count)  # fmt: skip


@jit
def _multiply(v, m, u, point, k, tiling):
    """m[point, k, tile] = sum over c of v[point, c, tile] u[point, k, c], for all tiles in v and PRODUCT_BLOCKS from k
    on, or those that are left. Arrays are flat.
    """
    if k + PRODUCT_BLOCKS <= tiling.k_blocks:
        _product(PRODUCT_BLOCKS, v, m, u, point, k, tiling)
    else:
        for last in range(k, tiling.k_blocks):
            _product(1, v, m, u, point, last, tiling)


@inlined_jit
def _product(blocks, v, m, u, point, k, tiling):
    """The same for `blocks` of outputs from k on, a literal."""
    c_blocks, at_once = tiling.c_blocks, tiling.tiles_at_once
    for tile in range(0, at_once, PIECE):
        product_tile(
            PIECE, blocks, 16, 16, v, point * tiling.x_plane + tile * 16, at_once * 16, 0, 0,
            u, (point * tiling.k_blocks + k) * c_blocks * 256, c_blocks * 256, 256, 0, 0,
            m, point * tiling.y_plane + (k * at_once + tile) * 16, at_once * 16, c_blocks, 1, 1, False)  # fmt: skip
