"""Small tensors, and what tests of kernels do with them."""

import numpy as np

from kernels import fast, layout, naive

RTOL = 1e-4  # of the largest value; typical errors are 1e-6


def error(got, expected):
    return np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def blocked(x):
    """Pack in blocks of 16 however few the channels, as results of kernels are."""
    channels = layout.blocks_of(x.shape[1]) * 16
    return fast.pack(np.pad(x, ((0, 0), (0, channels - x.shape[1]), (0, 0), (0, 0))))


def check_convolution(shape, ops=fast):
    """All three passes of (N, C, K, H, W, kernel, stride, pad) by `ops` against their twins in float64."""
    n, c, k, h, w, kernel, stride, pad = shape
    x, weights, bias = normal(n, c, h, w), normal(k, c, kernel, kernel), normal(k)
    exact = naive.conv_forward(*(a.astype(np.float64) for a in (x, weights, bias)), stride, pad)
    xs, ws = ops.pack(x), ops.pack_weights(weights)
    y = ops.conv_forward(xs, ws, ops.pack_vector(bias), stride, pad)
    assert error(ops.unpack(y, k), exact) < RTOL
    plain = ops.conv_forward(xs, ws, None, stride, pad)
    assert error(ops.unpack(plain, k), exact - bias[:, None, None]) < RTOL

    dy = normal(*exact.shape, seed=1)
    exact_dx = naive.conv_backward_data(dy.astype(np.float64), weights.astype(np.float64), (h, w), stride, pad)
    dys = blocked(dy)
    dx = ops.conv_backward_data(dys, ws, (h, w), stride, pad)
    assert error(ops.unpack(dx, c), exact_dx) < RTOL
    ops.conv_backward_data(dys, ws, (h, w), stride, pad, out=dx, accumulate=True)
    assert error(ops.unpack(dx, c), 2 * exact_dx) < RTOL

    exact_dw, exact_db = np.ones((k, c, kernel, kernel)), np.ones(k)
    naive.conv_backward_weights(x.astype(np.float64), dy.astype(np.float64), exact_dw, exact_db, stride, pad)
    dw, db = ops.pack_weights(np.ones((k, c, kernel, kernel))), ops.pack_vector(np.ones(k))
    ops.conv_backward_weights(xs, dys, dw, db, stride, pad)
    assert error(ops.unpack_weights(dw, weights.shape), exact_dw) < RTOL
    assert error(ops.unpack_vector(db, k), exact_db) < RTOL
