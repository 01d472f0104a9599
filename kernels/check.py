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
        _expect_layout(name, array, ndim)


def expect_activations(**arrays):
    """Each name=(array, ndim) must be a contiguous array of that many dimensions, float32 or (as uint16) bf16; all of
    one dtype.
    """
    first = next(iter(arrays.values()))[0].dtype
    for name, (array, ndim) in arrays.items():
        dtype = array.dtype
        expect(dtype in (np.float32, np.uint16), f"{name} is {dtype}, expected float32, or uint16 that holds bf16")
        expect(dtype == first, f"{name} is {dtype}, expected {first} as {next(iter(arrays))}")
        _expect_layout(name, array, ndim)


def _expect_layout(name, array, ndim):
    expect(array.ndim == ndim, f"{name} has shape {array.shape}, expected {ndim} dimensions (see layout)")
    expect(array.flags.c_contiguous, f"{name} is not contiguous")
