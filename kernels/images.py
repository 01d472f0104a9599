"""Images as the input of the network: pixels, less their mean, scaled, in the layout of activations."""

import numba
import numpy as np

from kernels.jit import parallel_jit
from kernels.layout import activation_shape, stored_as


def pack_images(pixels, mean, scale, dtype=np.float32, out=None):
    """uint8 pixels (N, 3, H, W) -> (pixel - mean) * scale, an activation, written to `out` if given. `mean`: a value
    for each channel. `dtype`: float32, or BF16 for bf16.
    """
    if out is None:
        out = np.empty(activation_shape(*pixels.shape), dtype)
    table = (np.arange(256) - np.asarray(mean, np.float64)[:, None]) * scale
    _look_up(pixels, stored_as(table.astype(np.float32), out.dtype), out[0])
    return out


@parallel_jit
def _look_up(pixels, table, out):
    """out[h, w, n, c] = table[c, pixels[n, c, h, w]], and 0 in the lanes that no channel has."""
    images, channels, height, width = pixels.shape
    for h in numba.prange(height):
        for w in range(width):  # written in order; the lines of all images that are read stay in the L1 cache
            for n in range(images):
                for c in range(channels):
                    out[h, w, n, c] = table[c, pixels[n, c, h, w]]
                for c in range(channels, out.shape[3]):
                    out[h, w, n, c] = 0
