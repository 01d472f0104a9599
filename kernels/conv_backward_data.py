"""The gradient of a convolution's data: a convolution of dy with the transposed weights, whose taps are reversed."""

import numpy as np

from kernels.check import expect, expect_activations, expect_stored
from kernels.convolve import convolve
from kernels.epilogue import backward_epilogue, no_epilogue
from kernels.layout import FEW, lanes_of, stored_as, values_of
from kernels.sizes import convolved_size


def conv_backward_data(dy, w, size, stride=1, pad=0, out=None, accumulate=False, fused_norm=None, *,
                       winograd="auto"):  # fmt: skip
    """dx[n, c, y, x] = sum over k, r, s of dy[n, k, (y + pad - r) / stride, ...] * w[k, c, r, s].

    dy           activation (K/16, H', W', N, 16), the gradient of the result
    w            weights
    size         x's (height, width): with a stride, several have the same result's size
    stride, pad  pixels
    out          where dx is written (None: a new array)
    accumulate   add to `out` in place
    fused_norm   the `FusedBatchNorm` that made x (None: only dx is computed)
    winograd     the mode of `uses_winograd`

    Returns dx, an activation as x; with `fused_norm` (d, sums): d is dx where its y > 0, else 0; sums are float64
    (2, channels), sum d and sum d (x - mean) with its x and mean. Arrays are as `layout` stores them. Raises
    ValueError on shapes that do not fit.
    """
    expect_activations(dy=(dy, 5))
    expect_stored(w=(w, 6))
    expect(dy.shape[0] == w.shape[0], f"dy {dy.shape} has other channels than w {w.shape}")
    expected = tuple(convolved_size(size[i], w.shape[2 + i], stride, pad) for i in (0, 1))
    expect(dy.shape[1:3] == expected, f"dy {dy.shape} is no gradient of a {size} image, expected {expected}")
    few = w.shape[4] <= FEW
    shape = (w.shape[1], *size, dy.shape[3], lanes_of(w.shape[4]))
    dx = np.zeros(shape, dy.dtype) if out is None else out
    expect(dx.shape == shape, f"out is {dx.shape}, expected {shape}")
    if fused_norm is not None:
        found = fused_norm.x.shape
        expect(found == shape, f"fused_norm is of {found}, expected {shape}")
    target = np.empty((*shape[:4], 16), np.float32) if few else dx
    epilogue = no_epilogue(target.dtype) if fused_norm is None else backward_epilogue(fused_norm)
    add, needs_sums = accumulate and not few, fused_norm is not None
    sums = convolve(dy, w, target, 1, pad, -1, stride, add, epilogue, needs_sums, winograd)
    if few:
        total = values_of(dx) + target[..., :FEW] if accumulate else target[..., :FEW]
        dx[...] = stored_as(total, dx.dtype)
    return dx if fused_norm is None else (dx, sums)
