"""Working memory that the fast kernels use again from call to call. Kernels run from one thread at a time."""

import math

import numpy as np

_held = {}


def scratch(purpose, shape, dtype=np.float32):
    """An uninitialised array of `shape`, valid until the next call for the same purpose and dtype."""
    size = math.prod(shape)
    held = _held.get((purpose, dtype))
    if held is None or held.size < size:
        held = _held[purpose, dtype] = np.empty(size, dtype)
    return held[:size].reshape(shape)
