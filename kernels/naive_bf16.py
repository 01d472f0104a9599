"""What every kernel means in bf16: the definitions of `naive` with roundings to `ml_dtypes.bfloat16`.

This is the policy of mixed precision, the only place that says where numbers are rounded (to nearest, ties to even):

    stored as bf16      activations and their gradients
    rounded to bf16     weights, when a convolution or the classifier multiplies them; what is trained is float32
    float32 or better   sums of products, batch statistics, gamma, beta, gradients of weights, momentum, the update,
                        scores, softmax and loss

So a convolution rounds its result once; batch norm takes its statistics of the rounded result, and rounds its own. A
bias or a residual is added to a rounded result, and the sum is rounded. No loss scaling: bf16 has float32's range.
"""

import ml_dtypes
import numpy as np

from kernels import naive
from kernels.naive import (  # noqa: F401  (the same in any precision)
    IN_PLACE,
    activation_shape,
    add_into,
    average_backward,
    bf16_add_into,
    bf16_split,
    cross_entropy,
    maxpool_backward,
    maxpool_forward,
    pack_vector,
    pack_weights,
    scaled_weights,
    sgd_update,
    softmax_loss,
    softmax_loss_backward,
    squared_norm,
    top_k,
    unpack_vector,
    unpack_weights,
    unpacked_size,
    vector_shape,
    weights_shape,
)

BF16 = ml_dtypes.bfloat16


def activation_dtype(dtype):
    """The dtype of activations, whatever that of the weights."""
    return np.dtype(BF16)


def _wide(x):
    """As float32, exactly; None stays None."""
    return None if x is None else x.astype(np.float32)


def _rounded(x):
    """To the nearest bf16, as float32."""
    return x.astype(BF16).astype(np.float32)


def _into(out, value):
    value = value.astype(BF16)
    if out is None:
        return value
    out[...] = value
    return out


def conv_forward(x, w, bias=None, stride=1, pad=0, out=None, statistics=None, norm=None):
    """`naive.conv_forward`, the result rounded before and after the bias; `statistics` are those of what is returned.
    `out` may be float32: it is then not rounded. What `norm` makes of x is rounded.
    """
    x = batchnorm_inference(x, *norm, None, True) if norm else x
    y = naive.conv_forward(_wide(x), _rounded(w), None, stride, pad)
    if out is not None and out.dtype == np.float32:
        out[...] = y if bias is None else y + bias[:, None, None]
        return out
    y = _rounded(y)
    if bias is not None:
        y = _rounded(y + bias[:, None, None])
    if statistics is not None:
        statistics[:] = y.mean(axis=(0, 2, 3), dtype=np.float64), y.var(axis=(0, 2, 3), dtype=np.float64)
    return _into(out, y)


def conv_inference(x, w, bias, stride=1, pad=0, residual=None, relu=False, out=None, made=None):
    """`naive.conv_inference`, rounded before bias, residual and ReLU, and after them."""
    y = _wide(conv_forward(x, w, None, stride, pad)) + bias[:, None, None]
    if residual is not None:
        y = y + _wide(residual)
    return _into(out, naive.relu_forward(y) if relu else y)


def conv_backward_data(dy, w, size, stride=1, pad=0, out=None, accumulate=False, fused_norm=None):
    """`naive.conv_backward_data`, the gradient rounded once, also after it was added to `out`; then the ReLU's backward
    pass of `fused_norm`, and its sums.
    """
    before = _wide(out) if accumulate else None
    dx = _rounded(naive.conv_backward_data(_wide(dy), _rounded(w), size, stride, pad, before, accumulate))
    if fused_norm is None:
        return _into(out, dx)
    wide = fused_norm._replace(x=_wide(fused_norm.x), y=_wide(fused_norm.y))
    d = naive.relu_backward(dx, naive.relu_output(wide))
    centred = _wide(fused_norm.x) - fused_norm.mean.astype(np.float32)[:, None, None]
    sums = np.array([v.sum(axis=(0, 2, 3), dtype=np.float64) for v in (d, d * centred)])
    return _into(out, d), sums


def conv_backward_weights(x, dy, dw, dbias=None, stride=1, pad=0, norm=None):
    """`naive.conv_backward_weights`; dw and dbias are float32. What `norm` makes of x is rounded."""
    x = batchnorm_inference(x, *norm, None, True) if norm else x
    naive.conv_backward_weights(_wide(x), _wide(dy), dw, dbias, stride, pad)


def batchnorm_forward(x, gamma, beta, eps, residual=None, relu=False, out=None, statistics=None):
    """`naive.batchnorm_forward`, its result rounded."""
    y, mean, var = naive.batchnorm_forward(_wide(x), gamma, beta, eps, _wide(residual), relu, None, statistics)
    return _into(out, y), mean, var


def batchnorm_inference(x, gamma, beta, mean, var, eps, residual=None, relu=False, out=None):
    """`naive.batchnorm_inference`, its result rounded."""
    return _into(out, naive.batchnorm_inference(_wide(x), gamma, beta, mean, var, eps, _wide(residual), relu))


def batchnorm_backward(dy, x, y, gamma, mean, var, eps, dgamma, dbeta, relu=False, out=None, dresidual=None,
                       sums=None):  # fmt: skip
    """`naive.batchnorm_backward`, dx and dresidual rounded; dgamma and dbeta are float32."""
    d = None if dresidual is None else np.empty(dy.shape, np.float32)
    dx = naive.batchnorm_backward(
        _wide(dy), _wide(x), _wide(y), gamma, mean, var, eps, dgamma, dbeta, relu, None, d, sums)  # fmt: skip
    if dresidual is not None:
        dresidual[...] = d.astype(BF16)
    return _into(out, dx)


def average_forward(x):
    """`naive.average_forward`, rounded."""
    return naive.average_forward(_wide(x)).astype(BF16)


def linear_forward(x, w, bias, outputs):
    """`naive.linear_forward`; scores are float32."""
    return naive.linear_forward(_wide(x), _rounded(w), bias, outputs)


def linear_backward(dy, x, w, dw, dbias):
    """`naive.linear_backward` with dy rounded; dx is rounded, too."""
    return naive.linear_backward(_rounded(dy.astype(np.float32)), _wide(x), _rounded(w), dw, dbias).astype(BF16)


def pack(x, out=None, dtype=BF16):
    """x rounded."""
    return _into(out, x)


def unpack(x, channels):
    """x as float32."""
    return _wide(x)


def pack_images(pixels, mean, scale, dtype=BF16, out=None):
    """`naive.pack_images`, rounded."""
    return _into(out, naive.pack_images(pixels, mean, scale))
