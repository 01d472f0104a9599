"""How kernels divide their work, from shapes alone: every number of threads computes the same bits.

The words are those of the package's docstring. Shapes are as `layout` stores arrays: w of weights, y of a result.
"""

import math

TASKS = 56  # of a kernel, at least, where the shape allows
PIECES = 14  # of the pixels of each block in batch norm; of the rows of a map in a gradient of weights, at most
PAIR_BLOCKS = 2  # of outputs, in a register tile of a gradient of weights in bf16, from a copy of dy
STORED_BLOCKS = 4  # the same from dy itself
# pixels of a piece of a pointwise convolution: they stay in a core's cache while all outputs are computed from them
POINTWISE_PIXELS = 96
PARTIAL_BYTES = 2 << 20  # of the sums of a piece in a gradient of weights: they stay in a core's L2 cache

PAIR_PIXELS = 800  # at most, of a row that a task copies for a pointwise gradient of weights in bf16
PAIR_TASKS = 28  # of a gradient of weights in bf16: each copies all inputs
PAIR_BYTES = 512 << 10  # of the rows of a band in a gradient of weights in bf16


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


def flattened(shape, bf16=False):
    """The shape of an activation for a pointwise gradient of weights: the pixels of a row count as images. In bf16 a
    row has as many as PAIR_PIXELS allows, and an even number if there is one.
    """
    blocks, height, width, images, lanes = shape
    if not bf16:
        return blocks, height, 1, width * images, lanes
    area = height * width
    sizes = ((d, area // d * images) for d in range(1, area + 1) if area % d == 0)
    rows = next((d for d, size in sizes if size <= PAIR_PIXELS and size % 2 == 0), height)
    return blocks, rows, 1, area // rows * images, lanes


def weight_gradient_pieces(w, rows, bf16=False):
    """Pieces of the rows of a map in a direct gradient of weights."""
    return max(1, min(PAIR_TASKS if bf16 else PIECES, rows, PARTIAL_BYTES // (4 * math.prod(w))))


def reads_stored(w, dy, pad):
    """Whether a gradient of weights in bf16 reads dy itself, not a copy in pairs, which a 1x1 kernel would read too
    seldom to be worth it. Two images are a pair, so their number has to be even.
    """
    return w[2] == w[3] == 1 and pad == 0 and w[4] == 16 and dy[3] % 2 == 0


def is_exchanged(w, dy, stride, pad):
    """Whether x and dy change places there: of the two, that with fewer channels is copied."""
    return is_pointwise(w, stride, pad) and reads_stored(w, dy, pad) and w[1] > w[0]


def pair_parts(k_blocks, pieces, tile):
    """(parts of the blocks of outputs in a direct gradient of weights in bf16, the most blocks that a part has), with
    `tile` blocks in a register tile.
    """
    units = -(-k_blocks // tile)  # a part has whole register tiles
    parts = min(units, -(-PAIR_TASKS // pieces))
    return parts, -(-units // parts) * tile


def copy_step(w, stride, pad):
    """(pixels from one that is copied of x to the next, stride of the copies) in a gradient of weights in bf16."""
    return (stride, 1) if w[2] == w[3] == 1 and pad == 0 else (1, stride)


def pair_band(w, dy, stride):
    """Rows of a band in a direct gradient of weights in bf16: what a task copies of them stays in a core's L2 cache."""
    _, of_part = pair_parts(w[0], weight_gradient_pieces(w, dy[1], True), PAIR_BLOCKS)
    if w[2] == w[3] == dy[2] == 1:  # `flattened`
        return 1
    row = 2 * dy[2] * dy[3] * (w[1] * stride**2 * w[4] + of_part * 16)
    return max(1, PAIR_BYTES // row)
