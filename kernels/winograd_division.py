"""Which convolutions Winograd's algorithm computes, and how it divides their work, from shapes alone.

Shapes are as `layout` stores arrays: w of weights, y of a result.
"""

from typing import NamedTuple

from kernels.check import expect
from kernels.division import direct_pieces

MODES = ("auto", "always", "never")
PIECE = 16  # tiles of a piece: a usual batch is a multiple of it
POINTS = 36  # of a tile: the 6x6 numbers that its transform has
CACHED_CHANNELS = 128  # at most, for the transformed tiles of a task to stay in a core's cache
ROUND_BYTES = 8 << 20  # of the transformed tiles of a round


class Tiling(NamedTuple):
    """The tiles of a convolution, and where their points lie in working memory. Compiled kernels take it as it is.

    height, width, images   of the maps; those of the input and of the result are of one size
    c_blocks, k_blocks      of the input, of the result
    tiles                   of the result, in all images
    pieces                  of the result: `PIECE` tiles each
    tiles_at_once           tiles that working memory holds: those of a task, of a round, or all
    x_plane, y_plane        floats from one point to the next in the transformed input, in that of the result
    """

    height: int
    width: int
    images: int
    c_blocks: int
    k_blocks: int
    tiles: int
    pieces: int
    tiles_at_once: int
    x_plane: int
    y_plane: int


def uses_winograd(mode, w, y, stride, pad, bf16=False):
    """Whether Winograd's algorithm computes a convolution. It can where kernels are 3x3 and stride and pad are 1.

    mode  "always", where it can; "never"; "auto", where it is faster, too. Raises ValueError for others
    """
    expect(mode in MODES, f"winograd is {mode!r}, expected one of {', '.join(MODES)}")
    rows, cols, lanes, _ = w[2:]
    possible = rows == cols == 3 and stride == pad == 1 and lanes == 16
    return possible and (mode == "always" or (mode == "auto" and winograd_is_faster(w, y, bf16)))


def winograd_is_faster(w, y, bf16=False):
    """Whether Winograd's algorithm is faster than a direct convolution; for shapes that it can compute.

    It is where it saves a third of the products at least, and where there are enough both of channels and of tiles to
    make up for the transforms. Of activations in bf16 it has to save five eighths: its products are float32, half as
    fast as direct ones.
    """
    _, height, width, images, _ = y
    direct = (3 * height - 2) * (3 * width - 2) * images  # the taps that meet an image
    tiles = _tile_count(y)
    most = 3 / 8 if bf16 else 2 / 3
    return POINTS * tiles < most * direct and tiles >= 2 * PIECE and min(w[:2]) >= 2


def convolution_pieces(w, y, stride, pad, by_winograd):
    """Pieces of a convolution's result."""
    return convolution_tiling(w, y).pieces if by_winograd else direct_pieces(w, y, stride, pad)


def fits_cache(w):
    """Whether the transformed tiles of a task fit into a core's cache, so that one task does all steps of a piece."""
    return max(w[:2]) * 16 <= CACHED_CHANNELS


def convolution_tiling(w, y):
    """The Tiling of a convolution: of the forward pass, or of the gradient of data."""
    pieces = -(-_tile_count(y) // PIECE)
    return _tiling(w, y, PIECE if fits_cache(w) else pieces * PIECE)


def weight_gradient_tiling(w, y):
    """The Tiling of a gradient of weights: rounds of equally many tiles, as near to ROUND_BYTES as that allows."""
    tiles = _tile_count(y)
    most = max(PIECE, ROUND_BYTES // (POINTS * 64 * max(w[:2])) // PIECE * PIECE)
    return _tiling(w, y, -(-tiles // -(-tiles // most)))


def _tiling(w, y, tiles_at_once):
    k_blocks, c_blocks = w[:2]
    _, height, width, images, _ = y
    tiles = _tile_count(y)
    # 16 floats more than needed, so that the points of a tile do not all belong to one set of the cache
    planes = ((blocks * tiles_at_once + 1) * 16 for blocks in (c_blocks, k_blocks))
    return Tiling(height, width, images, c_blocks, k_blocks, tiles, -(-tiles // PIECE), tiles_at_once, *planes)


def _tile_count(y):
    _, height, width, images, _ = y
    return -(-height // 4) * -(-width // 4) * images
