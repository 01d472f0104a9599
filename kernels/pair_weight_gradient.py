"""The gradient of weights in bf16: products of pairs of pixels.

A product instruction takes two neighbouring numbers of each operand. Of a gradient of weights, these are two pixels of
one channel, which are 16 numbers apart as stored. So each task first copies the rows of a band, with the pixels of two
images in turn; of an odd number of images, the last one's partner is zero. The copies stay in a core's cache. Of the
input of a 1x1 kernel with a stride, only the pixels that it reads are copied, so that the stride is gone.

A 1x1 kernel uses each number of dy once for every input alone. So dy is not copied: the register tile loads it as it is
stored, and a permutation puts it in pairs. There is little arithmetic for each number, too, so that a core would wait
for memory: the tile asks for the next row of both on its way through this one.
"""

import functools

import numba

from kernels.division import PAIR_BLOCKS, STORED_BLOCKS, copy_step, pair_band, pair_parts, reads_stored
from kernels.jit import jit, parallel_jit
from kernels.pairs import load_pixels, store_pairs
from kernels.ranges import nth_range
from kernels.scratch import scratch
from kernels.scratch_sizes import pair_rows
from kernels.tiles import stored_tile
from kernels.weight_gradient_rows import add_rows


def pair_weight_gradient(x, dy, w, partial, stride, pad):
    """The gradient of weights of each piece of dy's rows.

    x, dy        bf16, as `layout` stores them
    w            the shape of the weights
    partial      the result, float32 (pieces, numbers of the weights)
    stride, pad  pixels
    """
    k_blocks, _, rows, cols, lanes, _ = w
    need = pair_rows(w, dy.shape, stride, pad, numba.get_num_threads())
    inputs, outputs = (scratch(purpose, shape) for purpose, shape in need.items())
    step, stride = copy_step(w, stride, pad)
    band = pair_band(w, dy.shape, stride)
    if reads_stored(w, dy.shape, pad):
        k_parts, _ = pair_parts(k_blocks, len(partial), STORED_BLOCKS)
        _outer_stored(x, dy, partial, inputs, band, step, k_parts)
    else:
        k_parts, _ = pair_parts(k_blocks, len(partial), PAIR_BLOCKS)
        kernel = _outer_for(lanes, x.shape[4])
        kernel(x, dy, partial, inputs, outputs, band, step, stride, pad, rows, cols, k_parts)


@parallel_jit
def _outer_stored(x, dy, partial, inputs, band, step, k_parts):
    """The gradient of 1x1 weights, of an even number of images. Arguments as those of `pair_weight_gradient`, but:

    inputs   working memory of each thread for the rows of a band
    band     rows of dy
    step     pixels from one that is read of x to the next
    k_parts  parts of the blocks of outputs
    """
    c_blocks, images, line = x.shape[0], x.shape[3], x.shape[2] * x.shape[3] * 16
    k_blocks, h_out, w_out = dy.shape[0], dy.shape[1], dy.shape[2]
    xf, yf, pf = x.reshape(-1), dy.reshape(-1), partial.reshape(-1)
    pieces, size = partial.shape
    row, pairs, k_size = w_out * images * 16, w_out * images // 2, c_blocks * 256  # of dy and of the copies; of weights
    for task in numba.prange(pieces * k_parts):
        piece, part = task // k_parts, task % k_parts
        xs = inputs[numba.get_thread_id()]
        k_first, k_last = nth_range(part, k_parts, (k_blocks + STORED_BLOCKS - 1) // STORED_BLOCKS)
        k_first, k_last = k_first * STORED_BLOCKS, min(k_last * STORED_BLOCKS, k_blocks)
        h_first, h_last = nth_range(piece, pieces, h_out)
        pf[piece * size + k_first * k_size : piece * size + k_last * k_size] = 0
        for top in range(h_first, h_last, band):
            bottom = min(top + band, h_last)
            for c in range(c_blocks):
                for h in range(top, bottom):
                    _copy(16, xf, (c * x.shape[1] + h * step) * line, step,
                          xs, (c * (bottom - top) + h - top) * row, w_out, images)  # fmt: skip
            for c in range(c_blocks):
                k = k_first
                while k < k_last:
                    to, blocks = piece * size + k * k_size + c * 256, min(STORED_BLOCKS, k_last - k)
                    for h in range(top, bottom):
                        x0, next_x0 = (c * (bottom - top) + h - top) * row, (c * x.shape[1] + (h + band) * step) * line
                        if blocks == STORED_BLOCKS:
                            next_y0 = ((k + c % STORED_BLOCKS) * h_out + h + 1) * row  # one of the blocks for each c
                            stored_tile(STORED_BLOCKS, xs, x0, yf, (k * h_out + h) * row, h_out * row, pf, to, k_size,
                                        pairs, next_y0, xf, next_x0)  # fmt: skip
                            continue
                        for last in range(blocks):
                            y0 = ((k + last) * h_out + h) * row
                            stored_tile(1, xs, x0, yf, y0, 0, pf, to + last * k_size, 0, pairs, y0 + row, xf, next_x0)
                    k += blocks


@functools.cache
def _outer_for(lanes, pitch):
    """The kernel for weights with `lanes` inputs in a block, and an input whose blocks are `pitch` wide. These ints are
    literals inside the kernel, and part of its key in the cache.
    """

    blocks = PAIR_BLOCKS

    @parallel_jit
    def _outer_pairs(x, dy, partial, inputs, outputs, band, step, stride, pad, rows, cols, k_parts):
        """Arguments as those of `pair_weight_gradient`, but:

        inputs, outputs  working memory of each thread for the rows of a band
        band             rows of dy
        step             pixels from one that is copied of x to the next; `stride` is that of the copies
        k_parts          parts of the blocks of outputs
        """
        c_blocks, images, x_line = x.shape[0], x.shape[3], x.shape[2] * x.shape[3] * pitch
        h_in, w_in = (x.shape[1] + step - 1) // step, (x.shape[2] + step - 1) // step  # of the copies
        k_blocks, h_out, w_out = dy.shape[0], dy.shape[1], dy.shape[2]
        even = (images + 1) // 2 * 2
        xf, yf, pf = x.reshape(-1), dy.reshape(-1), partial.reshape(-1)
        pieces, size = partial.shape
        x_row, y_row = w_in * even * pitch, w_out * even * 16
        pair_size = rows * cols * lanes * 16  # weights of a pair of blocks
        k_size = c_blocks * pair_size
        for task in numba.prange(pieces * k_parts):
            piece, part = task // k_parts, task % k_parts
            xs, ys = inputs[numba.get_thread_id()], outputs[numba.get_thread_id()]
            k_first, k_last = nth_range(part, k_parts, (k_blocks + blocks - 1) // blocks)
            k_first, k_last = k_first * blocks, min(k_last * blocks, k_blocks)
            h_first, h_last = nth_range(piece, pieces, h_out)
            pf[piece * size + k_first * k_size : piece * size + k_last * k_size] = 0
            for top in range(h_first, h_last, band):
                bottom = min(top + band, h_last)
                x_top, x_bottom = max(0, top * stride - pad), min(h_in, (bottom - 1) * stride - pad + rows)
                x_block, y_block = (x_bottom - x_top) * x_row, (bottom - top) * y_row
                for c in range(c_blocks):
                    for row in range(x_top, x_bottom):
                        _copy(pitch, xf, (c * x.shape[1] + row * step) * x_line, step,
                              xs, c * x_block + (row - x_top) * x_row, w_in, images)  # fmt: skip
                for k in range(k_first, k_last):
                    _copy(16, yf, (k * h_out + top) * w_out * images * 16, 1, ys, (k - k_first) * y_block,
                          (bottom - top) * w_out, images)  # fmt: skip
                for c in range(c_blocks):
                    x0 = c * x_block - x_top * x_row
                    k = k_first
                    while k < k_last:
                        y0, to = (k - k_first) * y_block - top * y_row, piece * size + k * k_size + c * pair_size
                        if k + blocks <= k_last:
                            add_rows(lanes, blocks, pitch, 2, xs, x0, h_in, w_in, ys, y0, y_block, top, bottom,
                                     w_out, even, pf, to, k_size, stride, pad, rows, cols)  # fmt: skip
                            k += blocks
                        else:
                            add_rows(lanes, 1, pitch, 2, xs, x0, h_in, w_in, ys, y0, 0, top, bottom,
                                     w_out, even, pf, to, 0, stride, pad, rows, cols)  # fmt: skip
                            k += 1

    return _outer_pairs


@jit
def _copy(pitch, x, at, step, out, to, count, images):
    """Copy every `step`-th of the pixels of all images, each (images, pitch), `count` of them, as (pairs of images,
    pitch, 2).
    """
    skipped = (step - 1) * images * pitch
    if images % 2 == 0 and pitch == 16:
        for _ in range(count):
            for _ in range(images // 2):
                store_pairs(out, to, load_pixels(x, at))
                at, to = at + 32, to + 32
            at += skipped
        return
    for _ in range(count):
        for n in range(0, images, 2):
            for lane in range(pitch):
                out[to + 2 * lane] = x[at + lane]
                out[to + 2 * lane + 1] = x[at + pitch + lane] if n + 1 < images else 0
            at += min(2, images - n) * pitch
            to += 2 * pitch
        at += skipped
