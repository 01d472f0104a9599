"""Working memory that the fast kernels use again from call to call. Kernels run from one thread at a time."""

import math

import numpy as np

_held = {}
ALIGNMENT = 64  # bytes of a cache line, and of a vector of 16 floats: none then straddles two lines


def aligned(size, dtype=np.float32):
    """An uninitialised flat array that begins on a cache line. A page belongs to the thread that first writes it."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)


def scratch(purpose, shape, dtype=np.float32):
    """An uninitialised array of `shape`, valid until the next call for the same purpose and dtype."""
    size = math.prod(shape)
    held = _held.get((purpose, dtype))
    if held is None or held.size < size:
        held = _held[purpose, dtype] = aligned(size, dtype)
    return held[:size].reshape(shape)
