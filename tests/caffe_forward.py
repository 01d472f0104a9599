"""A net file computed straightforwardly, layer after layer as it is written there, in NumPy and float64."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def forward(net, blobs, inputs):
    """{blob: value} after all layers of a NetParameter but Data and Accuracy, batch norms by the batch's statistics.

    blobs: {layer: weights as stored}; inputs: {blob: value}.
    """
    values = dict(inputs)
    for layer in net.layer:
        if layer.type not in ("Data", "Accuracy"):
            bottoms = [values[name] for name in layer.bottom]
            values[layer.top[0]] = COMPUTES[layer.type](layer, *bottoms, *blobs.get(layer.name, ()))
    return values


def _convolution(layer, x, weights, bias=None):
    param = layer.convolution_param
    (kernel,), (stride,), (pad,) = param.kernel_size, param.stride, param.pad
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    y = np.tensordot(windows, weights, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    return y if bias is None else y + bias[:, None, None]


def _batch_norm(layer, x, *_):
    mean, var = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return (x - mean) / np.sqrt(var + layer.batch_norm_param.eps)


def _scale(layer, x, gamma, beta):
    return x * gamma[:, None, None] + beta[:, None, None]


def _pool(layer, x):
    param = layer.pooling_param
    (kernel,), (stride,) = param.kernel_size, param.stride
    reduce = (np.max, np.mean)[param.pool]
    starts = range(0, x.shape[2] - kernel + stride, stride)  # the last window is clipped
    return np.stack([np.stack([reduce(x[:, :, i : i + kernel, j : j + kernel], (2, 3)) for j in starts], -1)
                     for i in starts], -2)  # fmt: skip


def _loss(layer, scores, labels):
    shifted = scores - scores.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -np.mean(log_probabilities[np.arange(len(labels)), labels])


COMPUTES = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "ReLU": lambda layer, x: np.maximum(x, 0),
    "Pooling": _pool,
    "Eltwise": lambda layer, a, b: a + b,
    "InnerProduct": lambda layer, x, weights, bias: x.reshape(len(x), -1) @ weights.T + bias,
    "SoftmaxWithLoss": _loss,
}
