"""What every kernel means: the obvious NumPy, on plain NCHW arrays of any float dtype.

Each function is the definition of its compiled twin in `fast` and has its signature; arrays are NCHW
activations, KCRS weights and (C,) vectors. A result is a new array: `out` is filled only if given.
"""

import numpy as np

from kernels.naive_flat import add_into, bf16_add_into, bf16_split, sgd_update, squared_norm  # noqa: F401
from kernels.sizes import convolved_size, pooled_size
from kernels.softmax_loss import (  # noqa: F401  (plain arrays already)
    cross_entropy,
    softmax_loss,
    softmax_loss_backward,
    top_k,
)

IN_PLACE = False  # a result is a new array


def _into(out, value):
    if out is None:
        return value
    out[...] = value
    return out


# --- convolution: stride, pad, taps --------------------------------------------------------------------


def _taps(h, w, rows, cols, stride, pad):
    """(r, s, slices of the padded image that tap (r, s) meets) for every tap, and the output's size."""
    height, width = convolved_size(h, rows, stride, pad), convolved_size(w, cols, stride, pad)
    span_h, span_w = stride * (height - 1) + 1, stride * (width - 1) + 1
    taps = [
        (r, s, (..., slice(r, r + span_h, stride), slice(s, s + span_w, stride)))
        for r in range(rows)
        for s in range(cols)
    ]
    return taps, height, width


def _padded(x, pad):
    return np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))


def conv_forward(x, w, bias=None, stride=1, pad=0, out=None, statistics=None, norm=None):
    """y[n, k, h, w] = bias[k] + sum over c, r, s of x[n, c, h * stride - pad + r, ...] * w[k, c, r, s].

    `statistics`, float64 (2, K), is filled with y's mean and biased variance. With `norm`, a
    `kernels.input_norm.InputNorm`, x stands for relu(norm(x)).
    """
    x = batchnorm_inference(x, *norm, None, True) if norm else x
    taps, height, width = _taps(*x.shape[2:], *w.shape[2:], stride, pad)
    padded = _padded(x, pad)
    y = np.zeros((w.shape[0], x.shape[0], height, width), x.dtype)
    for r, s, window in taps:
        y += np.tensordot(w[:, :, r, s], padded[window], axes=(1, 1))
    if bias is not None:
        y += bias[:, None, None, None]
    y = np.ascontiguousarray(y.transpose(1, 0, 2, 3))
    if statistics is not None:
        statistics[:] = _moments(y)
    return _into(out, y)


def conv_inference(x, w, bias, stride=1, pad=0, residual=None, relu=False, out=None, made=None):
    """[relu](conv_forward [+ residual]): a convolution with its batch norm folded into w and bias."""
    y = conv_forward(x, w, bias, stride, pad)
    if residual is not None:
        y = y + residual
    return _into(out, relu_forward(y) if relu else y)


def conv_backward_data(dy, w, size, stride=1, pad=0, out=None, accumulate=False, fused_norm=None):
    """dx: each tap sends w[k, c, r, s] * dy back to the pixel it read. `size` is x's (height, width).

    With `fused_norm`, the `kernels.epilogue.FusedBatchNorm` that made x, returns (d, sums): d is dx where its y > 0,
    else 0; sums are float64 (2, C), sum d and sum d (x - mean) of its x and mean.
    """
    taps, _, _ = _taps(*size, *w.shape[2:], stride, pad)
    dx = np.zeros((dy.shape[0], w.shape[1], size[0] + 2 * pad, size[1] + 2 * pad), dy.dtype)
    for r, s, window in taps:
        dx[window] += np.tensordot(dy, w[:, :, r, s], axes=(1, 0)).transpose(0, 3, 1, 2)
    dx = dx[:, :, pad : pad + size[0], pad : pad + size[1]]
    dx = out + dx if accumulate else np.ascontiguousarray(dx)
    if fused_norm is None:
        return _into(out, dx)
    d = relu_backward(dx, relu_output(fused_norm))
    centred = fused_norm.x - _channels(fused_norm.mean)
    sums = np.array([v.sum(axis=(0, 2, 3), dtype=np.float64) for v in (d, d * centred)])
    return _into(out, d), sums


def conv_backward_weights(x, dy, dw, dbias=None, stride=1, pad=0, norm=None):
    """dw[k, c, r, s] += sum over n, h, w of x at the tap * dy; dbias += sum of dy. In place; `norm` as forward."""
    x = batchnorm_inference(x, *norm, None, True) if norm else x
    taps, _, _ = _taps(*x.shape[2:], *dw.shape[2:], stride, pad)
    padded = _padded(x, pad)
    for r, s, window in taps:
        dw[:, :, r, s] += np.tensordot(dy, padded[window], axes=((0, 2, 3), (0, 2, 3)))
    if dbias is not None:
        dbias += dy.sum(axis=(0, 2, 3))


# --- batch norm with scale and shift; ReLU; the residual add -------------------------------------------


def _channels(vector):
    return vector[None, :, None, None]


def relu_forward(x):
    """max(x, 0), and NaN where x is."""
    return np.maximum(x, 0)


def relu_backward(dy, y):
    """dx = dy where y > 0, else 0."""
    return dy * (y > 0)


def relu_output(fused_norm):
    """The y of a `kernels.epilogue.FusedBatchNorm`; if it was not kept, from its x."""
    return batchnorm_inference(fused_norm.x, *fused_norm[2:7], None, True) if fused_norm.y is None else fused_norm.y


def batchnorm_forward(x, gamma, beta, eps, residual=None, relu=False, out=None, statistics=None):
    """y = [relu] ((x - mean) / sqrt(var + eps) * gamma + beta [+ residual]). Returns (y, mean, var).

    `statistics`: mean and var where they are known.
    """
    mean, var = _moments(x) if statistics is None else statistics
    return batchnorm_inference(x, gamma, beta, mean, var, eps, residual, relu, out), mean, var


def _moments(x):
    """Mean and biased variance of each channel, in float64."""
    return x.mean(axis=(0, 2, 3), dtype=np.float64), x.var(axis=(0, 2, 3), dtype=np.float64)


def batchnorm_inference(x, gamma, beta, mean, var, eps, residual=None, relu=False, out=None):
    """The same with the statistics given. Returns y, in x's dtype."""
    y = (x - _channels(mean)) * _channels(gamma / np.sqrt(var + eps)) + _channels(beta)
    if residual is not None:
        y = y + residual
    return _into(out, (relu_forward(y) if relu else y).astype(x.dtype))


def batchnorm_backward(dy, x, y, gamma, mean, var, eps, dgamma, dbeta, relu=False, out=None, dresidual=None,
                       sums=None):  # fmt: skip
    """With d = dy through the ReLU and z = (x - mean) / sqrt(var + eps):

        dbeta += sum d;  dgamma += sum d z;  dx = gamma / sqrt(var + eps) * (d - mean(d) - z mean(d z))

    Returns dx; d, the residual's gradient, goes to `dresidual` if given. With `sums` (those of a `fused_norm`), dy is d
    already, and sum d z = sums[1] / sqrt(var + eps).
    """
    d = relu_backward(dy, y) if relu and sums is None else dy
    inverse = 1 / np.sqrt(var + eps)
    z = (x - _channels(mean)) * _channels(inverse)
    axes, count = (0, 2, 3), x.size // x.shape[1]
    if sums is None:
        sum_d, sum_dz = d.sum(axis=axes, dtype=np.float64), (d * z).sum(axis=axes, dtype=np.float64)
    else:
        sum_d, sum_dz = sums[0], sums[1] * inverse
    dbeta += sum_d.astype(dbeta.dtype)
    dgamma += sum_dz.astype(dgamma.dtype)
    dx = _channels(gamma * inverse) * (d - _channels(sum_d / count) - z * _channels(sum_dz / count))
    if dresidual is not None:
        dresidual[...] = d
    return _into(out, dx.astype(x.dtype))


# --- pooling -------------------------------------------------------------------------------------------


def _windows(x, kernel, stride):
    """(N, C, H', W', kernel * kernel), -inf outside; H' and W' as `pooled_size` says."""
    n, c, h, w = x.shape
    height, width = pooled_size(h, kernel, stride), pooled_size(w, kernel, stride)
    over = ((height - 1) * stride + kernel - h, (width - 1) * stride + kernel - w)
    padded = np.pad(x, ((0, 0), (0, 0), (0, max(0, over[0])), (0, max(0, over[1]))), constant_values=-np.inf)
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    return view[:, :, ::stride, ::stride].reshape(n, c, height, width, kernel * kernel)


def maxpool_forward(x, kernel=3, stride=2, out=None, winner=None):
    """The largest value of each window, and its place (the first, if several), r * kernel + s."""
    windows = _windows(x, kernel, stride)
    place = windows.argmax(axis=-1)
    y = np.take_along_axis(windows, place[..., None], -1)[..., 0]
    return _into(out, y), _into(winner, place.astype(x.dtype))


def maxpool_backward(dy, winner, size, kernel=3, stride=2, out=None):
    """dx = dy at each window's winner, summed over windows that overlap."""
    n, c, height, width = dy.shape
    dx = np.zeros((n, c, *size), dy.dtype)
    r, s = np.divmod(winner.astype(np.int64), kernel)
    images, channels, i, j = np.ogrid[:n, :c, :height, :width]
    np.add.at(dx, (images, channels, i * stride + r, j * stride + s), dy)
    return _into(out, dx)


def average_forward(x):
    """Mean over each map: (N, C, H, W) -> (N, C, 1, 1)."""
    return x.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(x.dtype)


def average_backward(dy, size, out=None):
    """dx = dy / (height * width) everywhere."""
    return _into(out, np.broadcast_to(dy / (size[0] * size[1]), (*dy.shape[:2], *size)).astype(dy.dtype))


# --- inner product -------------------------------------------------------------------------------------


def linear_forward(x, w, bias, outputs):
    """x (N, C, 1, 1), w (outputs, C, 1, 1) -> x w' + bias, (N, outputs)."""
    return x[:, :, 0, 0] @ w[:outputs, :, 0, 0].T + bias


def linear_backward(dy, x, w, dw, dbias):
    """dw += dy' x, dbias += sum dy; returns dx = dy w, (N, C, 1, 1)."""
    dy = dy.astype(x.dtype)
    dw[:, :, 0, 0] += dy.T @ x[:, :, 0, 0]
    dbias += dy.sum(axis=0)
    return (dy @ w[:, :, 0, 0])[:, :, None, None]


# --- layout: nothing to do -----------------------------------------------------------------------------


def activation_dtype(dtype):
    """The dtype of activations, given that of the weights: the same."""
    return dtype


def activation_shape(n, c, h, w):
    """(n, c, h, w): stored as it is."""
    return n, c, h, w


def unpacked_size(x):
    """(images, height, width) of an activation."""
    return x.shape[0], x.shape[2], x.shape[3]


def weights_shape(k, c, r, s):
    """(k, c, r, s): stored as it is."""
    return k, c, r, s


def vector_shape(c):
    """(c,): stored as it is."""
    return (c,)


def scaled_weights(w, factor):
    """w[k, ...] * factor[k], in w's dtype."""
    return (w * factor[:, None, None, None]).astype(w.dtype)


def pack_images(pixels, mean, scale, dtype=np.float32, out=None):
    """uint8 pixels (N, 3, H, W) -> (pixel - mean) * scale; mean a value a channel."""
    return _into(out, ((pixels - _channels(np.asarray(mean, np.float64))) * scale).astype(dtype))


def pack(x, out=None, dtype=np.float32):
    """x itself."""
    return _into(out, x)


def unpack(x, channels):
    """x itself."""
    return x


def pack_weights(w):
    """w itself."""
    return w


def unpack_weights(w, shape):
    """w itself."""
    return w.reshape(shape)


def pack_vector(v):
    """v itself."""
    return v


def unpack_vector(v, channels):
    """v itself."""
    return v
