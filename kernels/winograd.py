"""Winograd's F(4x4, 3x3) for 3x3 convolutions of stride 1: 36 products where a direct one takes 144.

Pieces of the input ("tiles", numbered over the map and then the images) are transformed, multiplied
point by point with transformed weights, and transformed back. Where the transformed tiles of a few columns
fit into a core's cache, a task does all three; where there are many channels, all cores do one after the other.
The gradient of data is the same convolution with the weights turned round, the gradient of weights the
transposed maps in reverse.
"""

from contextlib import contextmanager

import numba

from kernels.epilogue import NOTHING
from kernels.jit import jit, parallel_jit
from kernels.scratch import scratch
from kernels.tiles import outer_tile, product_tile
from kernels.winograd_tiles import (
    POINTS,
    finish_tiles,
    transform_gradient,
    transform_input,
    transform_output,
    transform_weights,
    transform_weights_back,
)

PIXELS = 16  # tiles multiplied at once
CACHED = 128  # channels up to which a task's tiles stay in the cache
ROUND_BYTES = 8 << 20  # of transformed inputs in one round of the gradient of weights

_chosen = {"mode": "auto"}


def set_winograd(mode):
    """Let convolutions of a kind it can do go this way "never", "always", or "auto", where it is faster, as at first.
    Returns the mode before. Raises ValueError for other words.
    """
    if mode not in ("never", "always", "auto"):
        raise ValueError(f"{mode!r}, expected never, always or auto")
    before, _chosen["mode"] = _chosen["mode"], mode
    return before


@contextmanager
def use_winograd(mode):
    """`set_winograd` for a while, as a context or around a function."""
    before = set_winograd(mode)
    try:
        yield
    finally:
        set_winograd(before)


def suits(shape, size, images, stride, pad):
    """Whether a convolution with weights stored as `shape`, of `images` maps of `size` (height, width), goes this way.

    It is faster where it saves a third of the products at least, and where there are enough both of channels and
    of tiles to pay for the transforms.
    """
    k_blocks, blocks, rows, cols, lanes, _ = shape
    possible = rows == cols == 3 and stride == pad == 1 and lanes == 16
    if not possible or _chosen["mode"] != "auto":
        return possible and _chosen["mode"] == "always"
    tiles = -(-size[0] // 4) * -(-size[1] // 4)
    direct = (3 * size[0] - 2) * (3 * size[1] - 2)  # the taps that meet the image
    return 3 * POINTS * tiles < 2 * direct and images * tiles >= 2 * PIXELS and min(blocks, k_blocks) >= 2


def winograd_pieces(shape):
    """In how many pieces a result of this shape is finished by its epilogue."""
    _, h, w, images, _ = shape
    return -(-_tiles(h, w, images) // PIXELS)


def _tiles(h, w, images):
    return -(-h // 4) * -(-w // 4) * images


def winograd_convolve(x, w, y, flip=False, accumulate=False, epilogue=NOTHING):
    """y (+)= the 3x3 convolution of x, padded by 1, with w; with w turned by 180 degrees if `flip`."""
    blocks, h, width, images, _ = x.shape
    k_blocks = y.shape[0]
    u = scratch("winograd weights", (POINTS, k_blocks, blocks, 256))
    transform_weights(w.reshape(-1), u.reshape(-1), k_blocks, blocks, flip)
    tiles = _tiles(h, width, images)
    cached = max(blocks, k_blocks) * 16 <= CACHED
    some = PIXELS if cached else -(-tiles // PIXELS) * PIXELS
    # a little more between the points than needed, so that they do not all fall into one set of the cache
    x_plane, y_plane = (blocks * some + 1) * 16, (k_blocks * some + 1) * 16
    copies = numba.get_num_threads() if cached else 1
    v = scratch("winograd inputs", (copies, POINTS * x_plane))
    m = scratch("winograd outputs", (copies, POINTS * y_plane))
    shapes = (h, width, images, tiles, some, blocks, k_blocks, x_plane, y_plane)
    (_in_cache if cached else _in_phases)(
        x.reshape(-1), u.reshape(-1), y.reshape(-1), v, m, *shapes, accumulate, epilogue
    )


def winograd_backward_weights(x, dy, dw):
    """dw += the gradient of the weights of a 3x3 convolution, padded by 1, of x."""
    blocks, h, width, images, _ = x.shape
    k_blocks = dy.shape[0]
    tiles = _tiles(h, width, images)
    some = max(PIXELS, ROUND_BYTES // (POINTS * 64 * max(blocks, k_blocks)) // PIXELS * PIXELS)
    some = -(-tiles // -(-tiles // some))
    x_plane, y_plane = (blocks * some + 1) * 16, (k_blocks * some + 1) * 16
    v, m = scratch("winograd inputs", (POINTS * x_plane,)), scratch("winograd outputs", (POINTS * y_plane,))
    du = scratch("winograd weights", (POINTS, k_blocks, blocks, 256))
    _outer(x.reshape(-1), dy.reshape(-1), dw.reshape(-1), v, m, du.reshape(-1), h, width, images, tiles, some, blocks,
           k_blocks, x_plane, y_plane)  # fmt: skip


@parallel_jit
def _in_cache(x, u, y, v, m, h, w, images, tiles, some, blocks, k_blocks, x_plane, y_plane, accumulate, epilogue):
    for task in numba.prange((tiles + some - 1) // some):
        thread = numba.get_thread_id()
        vs, ms = v[thread], m[thread]
        first, last = task * some, min(task * some + some, tiles)
        for c in range(blocks):
            transform_input(x, c, h, w, images, first, last, vs, c * some * 16, x_plane)
        for point in range(POINTS):
            for k in range(k_blocks):
                _multiply(vs, ms, u, point, k, some, blocks, k_blocks, x_plane, y_plane)
        for k in range(k_blocks):
            transform_output(ms, k * some * 16, y_plane, y, k, h, w, images, first, last, accumulate)
            finish_tiles(epilogue, y, k, h, w, images, first, last, task)


@parallel_jit
def _in_phases(x, u, y, v, m, h, w, images, tiles, some, blocks, k_blocks, x_plane, y_plane, accumulate, epilogue):
    vs, ms = v[0], m[0]
    parts = (tiles + PIXELS - 1) // PIXELS
    for task in numba.prange(blocks * parts):
        c, first = task // parts, task % parts * PIXELS
        last = min(first + PIXELS, tiles)
        transform_input(x, c, h, w, images, first, last, vs, (c * some + first) * 16, x_plane)
    for task in numba.prange(POINTS * k_blocks):
        _multiply(vs, ms, u, task // k_blocks, task % k_blocks, some, blocks, k_blocks, x_plane, y_plane)
    for task in numba.prange(k_blocks * parts):
        k, first = task // parts, task % parts * PIXELS
        last = min(first + PIXELS, tiles)
        transform_output(ms, (k * some + first) * 16, y_plane, y, k, h, w, images, first, last, accumulate)
        finish_tiles(epilogue, y, k, h, w, images, first, last, task % parts)


@parallel_jit
def _outer(x, dy, dw, v, m, du, h, w, images, tiles, some, blocks, k_blocks, x_plane, y_plane):
    du[:] = 0
    for begin in range(0, tiles, some):
        count = min(some, tiles - begin)
        parts = (count + PIXELS - 1) // PIXELS
        for task in numba.prange((blocks + k_blocks) * parts):
            block, first = task // parts, task % parts * PIXELS
            last = min(first + PIXELS, count)
            if block < blocks:
                at = (block * some + first) * 16
                transform_input(x, block, h, w, images, begin + first, begin + last, v, at, x_plane)
            else:
                block -= blocks
                at = (block * some + first) * 16
                transform_gradient(dy, block, h, w, images, begin + first, begin + last, m, at, y_plane)
        for task in numba.prange(POINTS * k_blocks):
            point, k = task // k_blocks, task % k_blocks
            for c in range(blocks):
                outer_tile(16, 16, v, point * x_plane + c * some * 16, 0, m, point * y_plane + k * some * 16, 0,
                           du, (task * blocks + c) * 256, 1, count)  # fmt: skip
    transform_weights_back(du, dw, k_blocks, blocks)


@jit
def _multiply(v, m, u, point, k, some, blocks, k_blocks, x_plane, y_plane):
    """One block of outputs of one point: m[k, tile] = sum over c of v[c, tile] u[k, c]."""
    for tile in range(0, some, PIXELS):
        product_tile(
            PIXELS, 16, 16, v, point * x_plane + tile * 16, some * 16, 0, 0,
            u, (point * k_blocks + k) * blocks * 256, 256, 0, 0,
            m, point * y_plane + (k * some + tile) * 16, blocks, 1, 1, False)  # fmt: skip
