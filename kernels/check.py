"""What public kernels ask of their arguments before they loop."""

import numpy as np


def expect(condition, message):
    """Raise ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def expect_stored(**arrays):
    """Each name=(array, ndim) must be a contiguous float32 array of that many dimensions."""
    for name, (array, ndim) in arrays.items():
        expect(array.dtype == np.float32, f"{name} is {array.dtype}, expected float32")
        expect(array.ndim == ndim, f"{name} has shape {array.shape}, expected {ndim} dimensions (see layout)")
        expect(array.flags.c_contiguous, f"{name} is not contiguous")
