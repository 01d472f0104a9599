"""Winograd's tiles of a map: from activations and weights as stored to their 36 points, and back.

In the numbering of tiles the image changes fastest, then the column, then the row. Arrays are flat, offsets count
elements; activations are float32 or bf16, all else is float32. Arguments of the same name mean the same in all
functions:

    x, y, dy     activations (blocks, height, width, images, 16); c and k number their blocks
    tiling       a `Tiling` of the convolution
    factors      `norm_factors`, flat, of the `InputNorm` that x goes through, or NO_NORM
    first, last  the tiles are first .. last - 1
    v, m, at     points (36, block, tile, 16) of the input, of the result or its gradient; point 0 of the first tile is
                 at offset `at`, the next tile 16 floats from it, the next point a plane (x_plane or y_plane) from it
    u, du        points (36, k_blocks, c_blocks, 16, 16) of weights, of their gradient
    w, dw        weights (k_blocks, c_blocks, 3, 3, 16, 16), and their gradient
"""

import numba
import numpy as np

from kernels.epilogue import apply_epilogue
from kernels.input_norm import factors_of, load_normalised_if
from kernels.jit import inlined_jit, jit, parallel_jit
from kernels.vector import load, load_if, rounded_to_bf16, splat, store
from kernels.winograd_division import POINTS
from kernels.winograd_transforms import gradient_points, input_points, kernel_points, kernel_values, output_values


@jit
def transform_input(x, c, factors, tiling, first, last, v, at):
    """v[point, c, tile] = Bt d B for the 6x6 pixels d of x, which begin one pixel above and left of the tile."""
    mean = scale = shift = splat(np.float32(0))
    if factors.size > 0:
        mean, scale, shift = factors_of(factors, c)
    h, w, images, plane = tiling.height, tiling.width, tiling.images, tiling.x_plane
    half = np.empty(POINTS * 16, np.float32)
    for tile in range(first, last):
        n, top, left = _position(tile, w, images)
        top, left = top - 1, left - 1
        for s in range(6):
            inside = 0 <= left + s < w
            start = (((c * h + top) * w + left + s) * images + n) * 16
            step = w * images * 16
            if factors.size > 0:
                points = input_points(
                    load_normalised_if(x, start, inside and top >= 0, mean, scale, shift),
                    load_normalised_if(x, start + step, inside and top + 1 < h, mean, scale, shift),
                    load_normalised_if(x, start + 2 * step, inside and top + 2 < h, mean, scale, shift),
                    load_normalised_if(x, start + 3 * step, inside and top + 3 < h, mean, scale, shift),
                    load_normalised_if(x, start + 4 * step, inside and top + 4 < h, mean, scale, shift),
                    load_normalised_if(x, start + 5 * step, inside and top + 5 < h, mean, scale, shift),
                )
            else:
                points = input_points(
                    load_if(x, start, inside and top >= 0),
                    load_if(x, start + step, inside and top + 1 < h),
                    load_if(x, start + 2 * step, inside and top + 2 < h),
                    load_if(x, start + 3 * step, inside and top + 3 < h),
                    load_if(x, start + 4 * step, inside and top + 4 < h),
                    load_if(x, start + 5 * step, inside and top + 5 < h),
                )
            _store_all(half, s * 16, 96, points)
        for r in range(6):
            _store_all(v, at + (tile - first) * 16 + r * 6 * plane, plane, input_points(*_load_six(half, r * 96, 16)))


@jit
def transform_gradient(dy, k, tiling, first, last, m, at):
    """m[point, k, tile] = A d At for the 4x4 pixels d of dy."""
    h, w, images, plane = tiling.height, tiling.width, tiling.images, tiling.y_plane
    half = np.empty(POINTS * 16, np.float32)
    for tile in range(first, last):
        n, top, left = _position(tile, w, images)
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
            _store_all(half, s * 16, 64, points)
        for r in range(6):
            i = r * 64
            points = gradient_points(load(half, i), load(half, i + 16), load(half, i + 32), load(half, i + 48))
            _store_all(m, at + (tile - first) * 16 + r * 6 * plane, plane, points)


@jit
def transform_output(m, at, tiling, y, k, first, last, accumulate):
    """The 4x4 pixels of y (+)= At m A, those inside the map. `accumulate`: add to y."""
    h, w, images, plane = tiling.height, tiling.width, tiling.images, tiling.y_plane
    half = np.empty(24 * 16, np.float32)
    for tile in range(first, last):
        n, top, left = _position(tile, w, images)
        for s in range(6):
            values = output_values(*_load_six(m, at + (tile - first) * 16 + s * plane, 6 * plane))
            _store_all(half, s * 16, 96, values)
        for r in range(min(4, h - top)):
            start = (((k * h + top + r) * w + left) * images + n) * 16
            step = images * 16
            values = output_values(*_load_six(half, r * 96, 16))
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


@inlined_jit
def apply_epilogue_to_tiles(epilogue, y, k, tiling, first, last, piece):
    """`apply_epilogue` for the pixels of these tiles of block k; `piece` as there."""
    h, w, images = tiling.height, tiling.width, tiling.images
    tile = first
    while tile < last:
        n, top, left = _position(tile, w, images)
        count = min(last - tile, images - n)
        for r in range(top, min(top + 4, h)):
            for s in range(left, min(left + 4, w)):
                apply_epilogue(epilogue, y, (((k * h + r) * w + s) * images + n) * 16, count, k, piece)
        tile += count


@parallel_jit
def transform_weights(w, u, k_blocks, c_blocks, flip, bf16):
    """u[point, k, c] = G g Gt for the 3x3 kernels g of w. `flip`: for g rotated by 180 degrees; `bf16`: rounded."""
    for pair in numba.prange(k_blocks * c_blocks):
        half = np.empty(18 * 16, np.float32)
        first, step = (pair * 9 + 8) * 256 if flip else pair * 9 * 256, -256 if flip else 256
        for lane in range(0, 256, 16):
            at = first + lane
            for s in range(3):
                a, b, c = load(w, at + s * step), load(w, at + (3 + s) * step), load(w, at + (6 + s) * step)
                if bf16:
                    a, b, c = rounded_to_bf16(a), rounded_to_bf16(b), rounded_to_bf16(c)
                points = kernel_points(a, b, c)
                _store_all(half, s * 16, 48, points)
            for r in range(6):
                points = kernel_points(load(half, r * 48), load(half, r * 48 + 16), load(half, r * 48 + 32))
                to = (r * 6 * k_blocks * c_blocks + pair) * 256 + lane
                _store_all(u, to, k_blocks * c_blocks * 256, points)


@parallel_jit
def transform_weights_back(du, dw, k_blocks, c_blocks):
    """The 3x3 kernels of dw[k, c] += Gt du[:, k, c] G."""
    plane = k_blocks * c_blocks * 256
    for pair in numba.prange(k_blocks * c_blocks):
        half = np.empty(18 * 16, np.float32)
        for lane in range(0, 256, 16):
            for s in range(6):
                values = kernel_values(*_load_six(du, pair * 256 + lane + s * plane, 6 * plane))
                for r in range(3):
                    store(half, (r * 6 + s) * 16, values[r])
            for r in range(3):
                values = kernel_values(*_load_six(half, r * 96, 16))
                for s in range(3):
                    to = (pair * 9 + r * 3 + s) * 256 + lane
                    store(dw, to, load(dw, to) + values[s])


@jit
def _load_six(array, at, step):
    """Six vectors from offset `at` on, `step` apart."""
    return (load(array, at), load(array, at + step), load(array, at + 2 * step),
            load(array, at + 3 * step), load(array, at + 4 * step), load(array, at + 5 * step))  # fmt: skip


@jit
def _store_all(array, at, step, values):
    """Write a tuple of vectors from offset `at` on, `step` apart."""
    for i in range(len(values)):
        store(array, at + i * step, values[i])


@jit
def _position(tile, w, images):
    """(image, row, column) of the first pixel of a tile of maps of width `w`."""
    column, n = tile // images, tile % images
    across = (w + 3) // 4
    return n, column // across * 4, column % across * 4
