"""Convolution, forward. Its gradients are `conv_backward_data` and `conv_backward_weights`."""

import numpy as np

from kernels.check import expect, expect_stored
from kernels.convolve import convolve
from kernels.winograd import suits, winograd_convolve


def conv_forward(x, w, bias=None, stride=1, pad=0, out=None):
    """y[n, k, h, w] = bias[k] + sum over c, r, s of x[n, c, h * stride - pad + r, ...] * w[k, c, r, s].

    x, w, bias and y (written to `out` if given) as in `layout`. Raises ValueError on shapes that do not fit.
    """
    expect_stored(x=(x, 5), w=(w, 6))
    rows, cols, lanes, _ = w.shape[2:]
    expect(x.shape[0] == w.shape[1] and x.shape[4] >= lanes, f"x {x.shape} has other channels than w {w.shape}")
    h, width = ((x.shape[1 + i] + 2 * pad - w.shape[2 + i]) // stride + 1 for i in (0, 1))
    expect(h > 0 and width > 0, f"a {rows}x{cols} kernel with pad {pad} does not fit into x {x.shape}")
    shape = (w.shape[0], h, width, x.shape[3], 16)
    y = np.empty(shape, np.float32) if out is None else out
    expect(y.shape == shape, f"out is {y.shape}, expected {shape}")
    if bias is not None:
        expect(bias.shape == (shape[0] * 16,), f"bias is {bias.shape}, expected ({shape[0] * 16},)")
        y[...] = bias.reshape(-1, 1, 1, 1, 16)
    if suits(w.shape, x.shape[1:3], x.shape[3], stride, pad):
        winograd_convolve(x, w, y, accumulate=bias is not None)
    else:
        convolve(x, w, y, scale=stride, offset=-pad, direction=1, divisor=1, accumulate=bias is not None)
    return y
