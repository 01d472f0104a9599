"""Batch norm and ReLU on what a convolution reads: the same bits as a pass before it."""

import numpy as np
import pytest
from tensors import RTOL, blocked, error, normal
from test_bf16 import close

from kernels import fast, naive, naive_bf16
from kernels.input_norm import InputNorm
from kernels.layout import BF16, stored_as
from nptrain.network.layers import blocks, walk

INNER = {conv.name for block in blocks() for conv in block.branch[1:]}
SHAPES = sorted({(2, conv.inputs, conv.outputs, height, height, conv.kernel, conv.stride, conv.pad)
                 for conv, height, _ in walk(224) if conv.name in INNER})  # fmt: skip
RAGGED = [(16, 64, 256, 9, 7, 1, 1, 0), (3, 20, 33, 7, 5, 1, 1, 0), (5, 33, 20, 9, 6, 3, 1, 1),
          (7, 40, 20, 7, 5, 1, 2, 0), (3, 17, 65, 8, 9, 3, 2, 1),
          (33, 32, 48, 4, 5, 3, 1, 1), (1, 16, 16, 1, 1, 3, 1, 1)]  # fmt: skip


def norm_of(channels, zs):
    """An InputNorm with the statistics of zs, whose shift would make ones of the zeros around a map."""
    gamma, beta = fast.pack_vector(normal(channels) + 1), fast.pack_vector(normal(channels, seed=1) + 1)
    _, mean, var = fast.batchnorm_forward(zs, gamma, beta, 1e-5)
    return InputNorm(gamma, beta, mean, var, 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=["float32", "bf16"])
@pytest.mark.parametrize("winograd", ["always", "never"])
@pytest.mark.parametrize("shape", [*SHAPES, *RAGGED], ids=lambda s: "x".join(map(str, s)))
def test_the_bits_are_those_of_a_pass_before(shape, winograd, dtype):
    n, c, k, h, w, kernel, stride, pad = shape
    zs, ws = stored_as(blocked(normal(n, c, h, w)), dtype), fast.pack_weights(normal(k, c, kernel, kernel))
    norm, how = norm_of(c, zs), {"winograd": winograd}
    ys = fast.batchnorm_inference(zs, *norm, None, True)
    statistics = [np.empty((2, len(fast.pack_vector(np.zeros(k))))) for _ in range(2)]
    before = fast.conv_forward(ys, ws, None, stride, pad, None, statistics[0], **how)
    found = fast.conv_forward(zs, ws, None, stride, pad, None, statistics[1], norm, **how)
    assert np.array_equal(found, before)
    assert np.array_equal(*statistics)

    dys, dws = stored_as(normal(*before.shape, seed=2), dtype), [np.ones_like(ws), np.ones_like(ws)]
    fast.conv_backward_weights(ys, dys, dws[0], None, stride, pad, **how)
    fast.conv_backward_weights(zs, dys, dws[1], None, stride, pad, norm, **how)
    assert np.array_equal(*dws)


@pytest.mark.parametrize("shape", RAGGED, ids=lambda s: "x".join(map(str, s)))
def test_the_twin(shape):
    n, c, k, h, w, kernel, stride, pad = shape
    z, weights = normal(n, c, h, w), normal(k, c, kernel, kernel)
    zs, ws = blocked(z), fast.pack_weights(weights)
    norm = norm_of(c, zs)
    plain = InputNorm(*(a[:c] for a in norm[:4]), 1e-5)
    exact = naive.conv_forward(z.astype(np.float64), weights, None, stride, pad, norm=plain)
    assert error(fast.unpack(fast.conv_forward(zs, ws, None, stride, pad, norm=norm), k), exact) < RTOL
    dy, dw, dws = normal(*exact.shape, seed=2), np.zeros(weights.shape), np.zeros_like(ws)
    naive.conv_backward_weights(z.astype(np.float64), dy, dw, None, stride, pad, plain)
    fast.conv_backward_weights(zs, blocked(dy), dws, None, stride, pad, norm)
    assert error(fast.unpack_weights(dws, weights.shape), dw) < RTOL


@pytest.mark.parametrize("shape", RAGGED, ids=lambda s: "x".join(map(str, s)))
def test_the_twin_in_bf16(shape):
    n, c, k, h, w, kernel, stride, pad = shape
    weights, zs = normal(k, c, kernel, kernel), stored_as(blocked(normal(n, c, h, w)), BF16)
    z, ws, norm = fast.unpack(zs, c).astype(naive_bf16.BF16), fast.pack_weights(weights), norm_of(c, zs)
    plain = InputNorm(*(a[:c] for a in norm[:4]), 1e-5)
    expected = naive_bf16.conv_forward(z, weights, None, stride, pad, norm=plain)
    close(fast.unpack(fast.conv_forward(zs, ws, None, stride, pad, norm=norm), k), expected)
    dys, dw, dws = stored_as(blocked(normal(*expected.shape, seed=2)), BF16), np.zeros_like(weights), np.zeros_like(ws)
    naive_bf16.conv_backward_weights(z, fast.unpack(dys, k).astype(naive_bf16.BF16), dw, None, stride, pad, plain)
    fast.conv_backward_weights(zs, dys, dws, None, stride, pad, norm)
    assert error(fast.unpack_weights(dws, weights.shape), dw) < 1e-4  # a tie of y may fall to the other side


def test_a_norm_of_other_channels_is_refused():
    zs, ws = blocked(normal(2, 32, 4, 4)), fast.pack_weights(normal(16, 32, 1, 1))
    norm = norm_of(16, blocked(normal(2, 16, 4, 4)))
    with pytest.raises(ValueError, match="norm is of 16 channels, expected 32"):
        fast.conv_forward(zs, ws, norm=norm)
