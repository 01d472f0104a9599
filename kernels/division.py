"""How kernels divide their work, from shapes alone: every number of threads computes the same bits.

The words are those of the package's docstring. Shapes are as `layout` stores arrays: w of weights, y of a result.
"""

import math

TASKS = 56  # of a kernel, at least, where the shape allows
PIECES = 14  # of the pixels of each block in batch norm; of the rows of a map in a gradient of weights, at most
PIXELS, FEW_PIXELS = 16, 4  # of a register tile: a usual batch is a multiple of them
POINTWISE_PIXELS = 64  # of a piece: they stay in a core's cache while all outputs are computed from them
PARTIAL_BYTES = 2 << 20  # of the sums of a piece in a gradient of weights: they stay in a core's L2 cache


def part_count(k_blocks, pieces):
    """How many parts the blocks of outputs have, so that parts x pieces are `TASKS` tasks at least."""
    return min(k_blocks, -(-TASKS // pieces))


def is_pointwise(w, stride, pad):
    """Whether a convolution computes each pixel of the result from the same pixel of the input alone."""
    return w[2] == w[3] == stride == 1 and pad == 0 and w[4] == 16


def pointwise_piece(pixels):
    """Pixels of a piece of a pointwise convolution of maps with `pixels` in all images."""
    return POINTWISE_PIXELS if pixels >= POINTWISE_PIXELS * TASKS / 2 else POINTWISE_PIXELS // 2


def direct_pieces(w, y, stride, pad):
    """Pieces of a direct convolution's result: rows, or where it is pointwise, ranges of all pixels."""
    _, height, width, images, _ = y
    if not is_pointwise(w, stride, pad):
        return height
    pixels = height * width * images
    return -(-pixels // pointwise_piece(pixels))


def weight_gradient_pieces(w, rows):
    """Pieces of the rows of a map in a direct gradient of weights."""
    return max(1, min(PIECES, rows, PARTIAL_BYTES // (4 * math.prod(w))))
