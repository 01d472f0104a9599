"""Working memory that the fast kernels use again from call to call. Kernels run from one thread at a time."""

import math
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64  # bytes of a cache line, and of a vector of 16 floats: none then straddles two lines


class Purpose(NamedTuple):
    """What an array of working memory is for, and the type of its numbers."""

    name: str
    dtype: type = np.float32


# What each holds; its shape is in `scratch_sizes`.
TRANSPOSED_WEIGHTS = Purpose("transposed weights")  # of a gradient of data: weights with inputs and outputs exchanged
PAIR_WEIGHTS = Purpose("pair weights", np.uint16)  # of a direct convolution in bf16: weights in pairs of inputs
PARTIAL_DW = Purpose("partial dw")  # of a direct gradient of weights: the sums of each piece
PAIR_INPUTS = Purpose("pair inputs", np.uint16)  # of a gradient of weights in bf16: rows of x in pairs of pixels
PAIR_OUTPUTS = Purpose("pair outputs", np.uint16)  # the same of dy
WINOGRAD_WEIGHTS = Purpose("winograd weights")  # weights, or the gradient of weights, at the points of Winograd
WINOGRAD_INPUTS = Purpose("winograd inputs")  # the input's tiles at these points
WINOGRAD_OUTPUTS = Purpose("winograd outputs")  # the tiles of the result, or of its gradient, at these points
# of a direct convolution: its input after batch norm and ReLU, in float32 and in bf16
NORMALISED, NORMALISED_BF16 = Purpose("normalised input"), Purpose("normalised input in bf16", np.uint16)
EPILOGUE_SUMS = Purpose("epilogue sums", np.float64)  # of an epilogue: the sums of each block and piece

_held = {}  # {Purpose: the largest array that it ever needed, flat}


def aligned(size, dtype=np.float32):
    """An uninitialised flat array that begins on a cache line. A page belongs to the thread that first writes it."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


def scratch(purpose, shape):
    """An uninitialised array of `shape`, valid until the next call for the same Purpose."""
    size = math.prod(shape)
    held = _held.get(purpose)
    if held is None or held.size < size:
        held = _held[purpose] = aligned(size, purpose.dtype)
    return held[:size].reshape(shape)


def kept(purpose, shape, made=None):
    """(`scratch(purpose, shape)`, True): an array to fill. With `made`, a dict, it is made once and kept there, and
    later calls return (the same array, False).
    """
    if made is None:
        return scratch(purpose, shape), True
    empty = purpose not in made
    if empty:
        made[purpose] = aligned(math.prod(shape), purpose.dtype).reshape(shape)
    return made[purpose], empty


def held_bytes():
    """{name of the purpose: bytes} of all working memory that is held now."""
    return {purpose.name: array.nbytes for purpose, array in _held.items()}
