"""Winograd's F(4x4, 3x3) for 3x3 convolutions of stride 1: 36 products where a direct one takes 144.

The tiles (4x4 pixels of the result each, and the 6x6 pixels of the input that they need) are transformed, multiplied
point by point with the transformed weights, and transformed back. With few channels, where the transformed tiles of
a task fit into a core's cache, each task does all three; with many, all tasks do the first, then all the second, then
all the third. The gradient of data is the same convolution with transposed weights, whose taps are reversed; the
gradient of weights uses the transposed maps in reverse order.
"""

import numba

from kernels.check import expect
from kernels.epilogue import NO_EPILOGUE
from kernels.jit import jit, parallel_jit
from kernels.scratch import scratch
from kernels.tiles import outer_tile, product_tile
from kernels.winograd_tiles import (
    POINTS,
    apply_epilogue_to_tiles,
    transform_gradient,
    transform_input,
    transform_output,
    transform_weights,
    transform_weights_back,
)

PIXELS = 16  # tiles in a piece: the pixels of the register tile that multiplies them
CACHED = 128  # channels at most, for the transformed tiles of a task to stay in the cache
ROUND_BYTES = 8 << 20  # of transformed tiles in a round

MODES = ("auto", "always", "never")


def uses_winograd(mode, w, y, stride, pad):
    """Whether Winograd's algorithm computes a convolution with weights of shape `w` and a result of shape `y`, both as
    `layout` stores them. It can where kernels are 3x3 and stride and pad are 1.

    mode  "always", where it can; "never"; "auto", where it is faster, too. Raises ValueError for others
    """
    expect(mode in MODES, f"winograd is {mode!r}, expected one of {', '.join(MODES)}")
    rows, cols, lanes, _ = w[2:]
    possible = rows == cols == 3 and stride == pad == 1 and lanes == 16
    return possible and (mode == "always" or (mode == "auto" and winograd_is_faster(w, y)))


def winograd_is_faster(w, y):
    """Whether Winograd's algorithm is faster than a direct convolution; for shapes that it can compute.

    It is where it saves a third of the products at least, and where there are enough both of channels and of tiles to
    make up for the transforms.
    """
    k_blocks, c_blocks = w[:2]
    _, h, width, images, _ = y
    direct = (3 * h - 2) * (3 * width - 2)  # the taps that meet the image
    tiles = _tiles(h, width, images)
    return 3 * POINTS * tiles < 2 * direct * images and tiles >= 2 * PIXELS and min(c_blocks, k_blocks) >= 2


def winograd_pieces(shape):
    """How many pieces a result of this shape has."""
    _, h, w, images, _ = shape
    return -(-_tiles(h, w, images) // PIXELS)


def _tiles(h, w, images):
    return -(-h // 4) * -(-w // 4) * images


def winograd_convolve(x, w, y, flip=False, accumulate=False, epilogue=NO_EPILOGUE):
    """y (+)= the 3x3 convolution of x, padded by 1, with w; with w turned by 180 degrees if `flip`."""
    c_blocks, h, width, images, _ = x.shape
    k_blocks = y.shape[0]
    u = scratch("winograd weights", (POINTS, k_blocks, c_blocks, 256))
    transform_weights(w.reshape(-1), u.reshape(-1), k_blocks, c_blocks, flip)
    tiles = _tiles(h, width, images)
    cached = max(c_blocks, k_blocks) * 16 <= CACHED
    tiles_at_once = PIXELS if cached else -(-tiles // PIXELS) * PIXELS
    # a little more between the points than needed, so that they do not all fall into one set of the cache
    x_plane, y_plane = (c_blocks * tiles_at_once + 1) * 16, (k_blocks * tiles_at_once + 1) * 16
    copies = numba.get_num_threads() if cached else 1
    v = scratch("winograd inputs", (copies, POINTS * x_plane))
    m = scratch("winograd outputs", (copies, POINTS * y_plane))
    shapes = (h, width, images, tiles, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane)
    (_in_cache if cached else _in_phases)(
        x.reshape(-1), u.reshape(-1), y.reshape(-1), v, m, *shapes, accumulate, epilogue
    )


def winograd_backward_weights(x, dy, dw):
    """dw += the gradient of the weights of a 3x3 convolution, padded by 1, of x."""
    c_blocks, h, width, images, _ = x.shape
    k_blocks = dy.shape[0]
    tiles = _tiles(h, width, images)
    tiles_at_once = max(PIXELS, ROUND_BYTES // (POINTS * 64 * max(c_blocks, k_blocks)) // PIXELS * PIXELS)
    tiles_at_once = -(-tiles // -(-tiles // tiles_at_once))
    x_plane, y_plane = (c_blocks * tiles_at_once + 1) * 16, (k_blocks * tiles_at_once + 1) * 16
    v, m = scratch("winograd inputs", (POINTS * x_plane,)), scratch("winograd outputs", (POINTS * y_plane,))
    du = scratch("winograd weights", (POINTS, k_blocks, c_blocks, 256))
    shapes = (h, width, images, tiles, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane)
    _in_rounds(x.reshape(-1), dy.reshape(-1), dw.reshape(-1), v, m, du.reshape(-1), *shapes)


@parallel_jit
def _in_cache(x, u, y, v, m, h, w, images, tiles, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane,
              accumulate, epilogue):  # fmt: skip
    for task in numba.prange((tiles + tiles_at_once - 1) // tiles_at_once):
        thread = numba.get_thread_id()
        vs, ms = v[thread], m[thread]
        first, last = task * tiles_at_once, min(task * tiles_at_once + tiles_at_once, tiles)
        for c in range(c_blocks):
            transform_input(x, c, h, w, images, first, last, vs, c * tiles_at_once * 16, x_plane)
        for point in range(POINTS):
            for k in range(k_blocks):
                _multiply(vs, ms, u, point, k, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane)
        for k in range(k_blocks):
            transform_output(ms, k * tiles_at_once * 16, y_plane, y, k, h, w, images, first, last, accumulate)
            apply_epilogue_to_tiles(epilogue, y, k, h, w, images, first, last, task)


@parallel_jit
def _in_phases(x, u, y, v, m, h, w, images, tiles, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane,
               accumulate, epilogue):  # fmt: skip
    vs, ms = v[0], m[0]
    pieces = (tiles + PIXELS - 1) // PIXELS
    for task in numba.prange(c_blocks * pieces):
        c, first = task // pieces, task % pieces * PIXELS
        last = min(first + PIXELS, tiles)
        transform_input(x, c, h, w, images, first, last, vs, (c * tiles_at_once + first) * 16, x_plane)
    for task in numba.prange(POINTS * k_blocks):
        _multiply(vs, ms, u, task // k_blocks, task % k_blocks, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane)
    for task in numba.prange(k_blocks * pieces):
        k, first = task // pieces, task % pieces * PIXELS
        last = min(first + PIXELS, tiles)
        transform_output(ms, (k * tiles_at_once + first) * 16, y_plane, y, k, h, w, images, first, last, accumulate)
        apply_epilogue_to_tiles(epilogue, y, k, h, w, images, first, last, task % pieces)


@parallel_jit
def _in_rounds(x, dy, dw, v, m, du, h, w, images, tiles, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane):
    du[:] = 0
    for begin in range(0, tiles, tiles_at_once):
        count = min(tiles_at_once, tiles - begin)
        pieces = (count + PIXELS - 1) // PIXELS
        for task in numba.prange((c_blocks + k_blocks) * pieces):
            block, first = task // pieces, task % pieces * PIXELS
            last = min(first + PIXELS, count)
            if block < c_blocks:
                at = (block * tiles_at_once + first) * 16
                transform_input(x, block, h, w, images, begin + first, begin + last, v, at, x_plane)
            else:
                block -= c_blocks
                at = (block * tiles_at_once + first) * 16
                transform_gradient(dy, block, h, w, images, begin + first, begin + last, m, at, y_plane)
        for task in numba.prange(POINTS * k_blocks):
            point, k = task // k_blocks, task % k_blocks
            for c in range(c_blocks):
                outer_tile(
                    16, 16, v, point * x_plane + c * tiles_at_once * 16, 0,
                    m, point * y_plane + k * tiles_at_once * 16, 0,
                    du, (task * c_blocks + c) * 256, 1, count)  # fmt: skip
    transform_weights_back(du, dw, k_blocks, c_blocks)


@jit
def _multiply(v, m, u, point, k, tiles_at_once, c_blocks, k_blocks, x_plane, y_plane):
    """One block of outputs of one point: m[k, tile] = sum over c of v[c, tile] u[k, c]."""
    for tile in range(0, tiles_at_once, PIXELS):
        product_tile(
            PIXELS, 16, 16, v, point * x_plane + tile * 16, tiles_at_once * 16, 0, 0,
            u, (point * k_blocks + k) * c_blocks * 256, 256, 0, 0,
            m, point * y_plane + (k * tiles_at_once + tile) * 16, c_blocks, 1, 1, False)  # fmt: skip
