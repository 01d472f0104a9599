"""Convolution, forward. Its gradients are `conv_backward_data` and `conv_backward_weights`."""

import numpy as np

from kernels.check import expect, expect_activations, expect_stored
from kernels.convolve import convolve
from kernels.epilogue import bias_epilogue, mean_and_variance, no_epilogue
from kernels.sizes import convolved_size


def conv_forward(x, w, bias=None, stride=1, pad=0, out=None, statistics=None, norm=None, *, winograd="auto"):
    """y[n, k, h, w] = bias[k] + sum over c, r, s of x[n, c, h * stride - pad + r, ...] * w[k, c, r, s].

    x            activation (C/16, H, W, N, 16), or of few channels
    w, bias      weights and vector (None: no bias)
    stride, pad  pixels
    out          where y is written (None: a new array, of x's dtype); of x in bf16 it may be float32
    statistics   float64 (2, channels), filled with y's mean and biased variance (None: neither is computed)
    norm         an `InputNorm`: x stands for relu(norm(x)), which is not written to memory as a whole (None: x itself)
    winograd     the mode of `uses_winograd`

    Returns y, an activation (K/16, H', W', N, 16). Arrays are as `layout` stores them. Raises ValueError on shapes
    that do not fit.
    """
    expect_activations(x=(x, 5))
    out_dtype = x.dtype if out is None else out.dtype
    epilogue = no_epilogue(out_dtype) if bias is None else bias_epilogue(out_dtype, bias)
    y, sums = _convolved(x, w, stride, pad, out, epilogue, statistics is not None, winograd, norm=norm)
    if statistics is not None:
        statistics[:] = mean_and_variance(sums, y[0].size // 16)
    return y


def conv_inference(x, w, bias, stride=1, pad=0, residual=None, relu=False, out=None, made=None, *, winograd="auto"):
    """[relu](conv_forward [+ residual]): a convolution with its batch norm folded into w and bias.

    residual     activation of y's shape (None: nothing is added)
    relu         whether negative values become 0
    made         a dict in which the kernel keeps what it makes of w, for the next call with the same w, if it is given

    The other arguments, the result and errors are those of `conv_forward`.
    """
    expect_activations(x=(x, 5))
    epilogue = bias_epilogue(x.dtype, bias, residual, relu)
    return _convolved(x, w, stride, pad, out, epilogue, False, winograd, made)[0]


def _convolved(x, w, stride, pad, out, epilogue, sums, winograd, made=None, norm=None):
    """(y, the epilogue's sums as `convolve` returns them), after all shapes are checked."""
    expect_stored(w=(w, 6))
    rows, cols, lanes, _ = w.shape[2:]
    expect(x.shape[0] == w.shape[1] and x.shape[4] >= lanes, f"x {x.shape} has other channels than w {w.shape}")
    h, width = (convolved_size(x.shape[1 + i], w.shape[2 + i], stride, pad) for i in (0, 1))
    expect(h > 0 and width > 0, f"a {rows}x{cols} kernel with pad {pad} does not fit into x {x.shape}")
    shape = (w.shape[0], h, width, x.shape[3], 16)
    y = np.empty(shape, x.dtype) if out is None else out
    expect(y.shape == shape, f"out is {y.shape}, expected {shape}")
    bias = epilogue.bias
    expect(bias.size in (0, shape[0] * 16), f"bias is {bias.shape}, expected ({shape[0] * 16},)")
    expect(epilogue.residual.size in (0, y.size), f"a residual of {epilogue.residual.size} values, expected {y.size}")
    return y, convolve(x, w, y, stride, -pad, 1, 1, False, epilogue, sums, winograd, made, norm)
