"""Winograd's F(4x4, 3x3) for 3x3 convolutions of stride 1: 36 products where a direct one takes 144.

Pieces of the input ("tiles", numbered over the map and then the images) are transformed, multiplied
point by point with transformed weights, and transformed back. Where the transformed tiles of a few columns
fit into a core's cache, a task does all three; where there are many channels, all cores do one after the other.
The gradient of data is the same convolution with the weights turned round, the gradient of weights the
transposed maps in reverse.
"""

from contextlib import contextmanager

import numba
import numpy as np

from kernels.jit import jit, parallel_jit
from kernels.scratch import scratch
from kernels.tiles import outer_tile, product_tile
from kernels.vector import load, load_if, store
from kernels.winograd_transforms import gradient_points, input_points, kernel_points, kernel_values, output_values

PIXELS = 16  # tiles multiplied at once
CACHED = 128  # channels up to which a task's tiles stay in the cache
ROUND_BYTES = 8 << 20  # of transformed inputs in one round of the gradient of weights
POINTS = 36

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


def winograd_convolve(x, w, y, flip=False, accumulate=False):
    """y (+)= the 3x3 convolution of x, padded by 1, with w; with w turned by 180 degrees if `flip`."""
    blocks, h, width, images, _ = x.shape
    k_blocks = y.shape[0]
    u = scratch("winograd weights", (POINTS, k_blocks, blocks, 256))
    _transform_weights(w.reshape(-1), u.reshape(-1), k_blocks, blocks, flip)
    tiles = -(-h // 4) * -(-width // 4) * images
    cached = max(blocks, k_blocks) * 16 <= CACHED
    some = PIXELS if cached else -(-tiles // PIXELS) * PIXELS
    # a little more between the points than needed, so that they do not all fall into one set of the cache
    x_plane, y_plane = (blocks * some + 1) * 16, (k_blocks * some + 1) * 16
    copies = numba.get_num_threads() if cached else 1
    v = scratch("winograd inputs", (copies, POINTS * x_plane + 576))
    m = scratch("winograd outputs", (copies, POINTS * y_plane))
    shapes = (h, width, images, tiles, some, blocks, k_blocks, x_plane, y_plane)
    (_in_cache if cached else _in_phases)(x.reshape(-1), u.reshape(-1), y.reshape(-1), v, m, *shapes, accumulate)


def winograd_backward_weights(x, dy, dw):
    """dw += the gradient of the weights of a 3x3 convolution, padded by 1, of x."""
    blocks, h, width, images, _ = x.shape
    k_blocks = dy.shape[0]
    tiles = -(-h // 4) * -(-width // 4) * images
    some = max(PIXELS, ROUND_BYTES // (POINTS * 64 * max(blocks, k_blocks)) // PIXELS * PIXELS)
    some = -(-tiles // -(-tiles // some))
    x_plane, y_plane = (blocks * some + 1) * 16, (k_blocks * some + 1) * 16
    v, m = scratch("winograd inputs", (POINTS * x_plane,)), scratch("winograd outputs", (POINTS * y_plane,))
    du = scratch("winograd weights", (POINTS, k_blocks, blocks, 256))
    _outer(x.reshape(-1), dy.reshape(-1), dw.reshape(-1), v, m, du.reshape(-1), h, width, images, tiles, some, blocks,
           k_blocks, x_plane, y_plane)  # fmt: skip


@parallel_jit
def _in_cache(x, u, y, v, m, h, w, images, tiles, some, blocks, k_blocks, x_plane, y_plane, accumulate):
    for task in numba.prange((tiles + some - 1) // some):
        thread = numba.get_thread_id()
        vs, ms = v[thread], m[thread]
        first, last = task * some, min(task * some + some, tiles)
        for c in range(blocks):
            _transform_input(x, c, h, w, images, first, last, vs, c * some * 16, x_plane)
        for point in range(POINTS):
            for k in range(k_blocks):
                _multiply(vs, ms, u, point, k, some, blocks, k_blocks, x_plane, y_plane)
        for k in range(k_blocks):
            _transform_output(ms, k * some * 16, y_plane, y, k, h, w, images, first, last, accumulate)


@parallel_jit
def _in_phases(x, u, y, v, m, h, w, images, tiles, some, blocks, k_blocks, x_plane, y_plane, accumulate):
    vs, ms = v[0], m[0]
    parts = (tiles + PIXELS - 1) // PIXELS
    for task in numba.prange(blocks * parts):
        c, first = task // parts, task % parts * PIXELS
        last = min(first + PIXELS, tiles)
        _transform_input(x, c, h, w, images, first, last, vs, (c * some + first) * 16, x_plane)
    for task in numba.prange(POINTS * k_blocks):
        _multiply(vs, ms, u, task // k_blocks, task % k_blocks, some, blocks, k_blocks, x_plane, y_plane)
    for task in numba.prange(k_blocks * parts):
        k, first = task // parts, task % parts * PIXELS
        last = min(first + PIXELS, tiles)
        _transform_output(ms, (k * some + first) * 16, y_plane, y, k, h, w, images, first, last, accumulate)


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
                _transform_input(x, block, h, w, images, begin + first, begin + last, v, at, x_plane)
            else:
                block -= blocks
                at = (block * some + first) * 16
                _transform_gradient(dy, block, h, w, images, begin + first, begin + last, m, at, y_plane)
        for task in numba.prange(POINTS * k_blocks):
            point, k = task // k_blocks, task % k_blocks
            for c in range(blocks):
                outer_tile(16, 16, v, point * x_plane + c * some * 16, 0, m, point * y_plane + k * some * 16, 0,
                           du, (task * blocks + c) * 256, 1, count)  # fmt: skip
    _transform_weights_back(du, dw, k_blocks, blocks)


@jit
def _multiply(v, m, u, point, k, some, blocks, k_blocks, x_plane, y_plane):
    """One block of outputs of one point: m[k, tile] = sum over c of v[c, tile] u[k, c]."""
    for tile in range(0, some, PIXELS):
        product_tile(
            PIXELS, 16, 16, v, point * x_plane + tile * 16, some * 16, 0, 0,
            u, (point * k_blocks + k) * blocks * 256, 256, 0, 0,
            m, point * y_plane + (k * some + tile) * 16, blocks, 1, 1, False)  # fmt: skip


@jit
def _transform_input(x, c, h, w, images, first, last, v, at, plane):
    """v[point, tile] = Bt d B for the 6x6 pieces d of block c, which begin one pixel up and left of the tile."""
    across = (w + 3) // 4
    half = np.empty(POINTS * 16, np.float32)
    for tile in range(first, last):
        column, n = tile // images, tile % images
        top, left = column // across * 4 - 1, column % across * 4 - 1
        for s in range(6):
            inside = 0 <= left + s < w
            start = (((c * h + top) * w + left + s) * images + n) * 16
            step = w * images * 16
            points = input_points(
                load_if(x, start, inside and top >= 0),
                load_if(x, start + step, inside and top + 1 < h),
                load_if(x, start + 2 * step, inside and top + 2 < h),
                load_if(x, start + 3 * step, inside and top + 3 < h),
                load_if(x, start + 4 * step, inside and top + 4 < h),
                load_if(x, start + 5 * step, inside and top + 5 < h),
            )
            _keep_points(half, s * 16, 96, points)
        for r in range(6):
            _keep_points(v, at + (tile - first) * 16 + r * 6 * plane, plane, input_points(*_six(half, r * 96, 16)))


@jit
def _transform_gradient(dy, k, h, w, images, first, last, m, at, plane):
    """m[point, tile] = A dy At for the 4x4 tiles of block k."""
    across = (w + 3) // 4
    half = np.empty(POINTS * 16, np.float32)
    for tile in range(first, last):
        column, n = tile // images, tile % images
        top, left = column // across * 4, column % across * 4
        for s in range(4):
            inside = left + s < w
            start = (((k * h + top) * w + left + s) * images + n) * 16
            step = w * images * 16
            points = gradient_points(
                load_if(dy, start, inside),
                load_if(dy, start + step, inside and top + 1 < h),
                load_if(dy, start + 2 * step, inside and top + 2 < h),
                load_if(dy, start + 3 * step, inside and top + 3 < h),
            )
            _keep_points(half, s * 16, 64, points)
        for r in range(6):
            i = r * 64
            points = gradient_points(load(half, i), load(half, i + 16), load(half, i + 32), load(half, i + 48))
            _keep_points(m, at + (tile - first) * 16 + r * 6 * plane, plane, points)


@jit
def _transform_output(m, at, plane, y, k, h, w, images, first, last, accumulate):
    """y[tile] (+)= At m A, where it lies inside the map."""
    across = (w + 3) // 4
    half = np.empty(24 * 16, np.float32)
    for tile in range(first, last):
        column, n = tile // images, tile % images
        top, left = column // across * 4, column % across * 4
        for s in range(6):
            values = output_values(*_six(m, at + (tile - first) * 16 + s * plane, 6 * plane))
            _keep_values(half, s * 16, 96, values)
        for r in range(min(4, h - top)):
            start = (((k * h + top + r) * w + left) * images + n) * 16
            step = images * 16
            values = output_values(*_six(half, r * 96, 16))
            if accumulate:
                values = (
                    values[0] + load(y, start),
                    values[1] + load_if(y, start + step, left + 1 < w),
                    values[2] + load_if(y, start + 2 * step, left + 2 < w),
                    values[3] + load_if(y, start + 3 * step, left + 3 < w),
                )
            store(y, start, values[0])
            if left + 1 < w:
                store(y, start + step, values[1])
            if left + 2 < w:
                store(y, start + 2 * step, values[2])
            if left + 3 < w:
                store(y, start + 3 * step, values[3])


@parallel_jit
def _transform_weights(w, u, k_blocks, blocks, flip):
    """u[point, k, c] = G g Gt for the kernels g of w (k, c, 3, 3, 16, 16); flipped: of g turned by 180 degrees."""
    for pair in numba.prange(k_blocks * blocks):
        half = np.empty(18 * 16, np.float32)
        first, step = (pair * 9 + 8) * 256 if flip else pair * 9 * 256, -256 if flip else 256
        for lane in range(0, 256, 16):
            at = first + lane
            for s in range(3):
                points = kernel_points(
                    load(w, at + s * step), load(w, at + (3 + s) * step), load(w, at + (6 + s) * step))  # fmt: skip
                _keep_points(half, s * 16, 48, points)
            for r in range(6):
                points = kernel_points(load(half, r * 48), load(half, r * 48 + 16), load(half, r * 48 + 32))
                to = (r * 6 * k_blocks * blocks + pair) * 256 + lane
                _keep_points(u, to, k_blocks * blocks * 256, points)


@parallel_jit
def _transform_weights_back(du, dw, k_blocks, blocks):
    """dw[k, c] += Gt du G."""
    plane = k_blocks * blocks * 256
    for pair in numba.prange(k_blocks * blocks):
        half = np.empty(18 * 16, np.float32)
        for lane in range(0, 256, 16):
            for s in range(6):
                values = kernel_values(*_six(du, pair * 256 + lane + s * plane, 6 * plane))
                for r in range(3):
                    store(half, (r * 6 + s) * 16, values[r])
            for r in range(3):
                values = kernel_values(*_six(half, r * 96, 16))
                for s in range(3):
                    to = (pair * 9 + r * 3 + s) * 256 + lane
                    store(dw, to, load(dw, to) + values[s])


@jit
def _six(array, at, step):
    return (load(array, at), load(array, at + step), load(array, at + 2 * step),
            load(array, at + 3 * step), load(array, at + 4 * step), load(array, at + 5 * step))  # fmt: skip


@jit
def _keep_points(array, at, step, points):
    for i in range(6):
        store(array, at + i * step, points[i])


@jit
def _keep_values(array, at, step, values):
    for i in range(4):
        store(array, at + i * step, values[i])
