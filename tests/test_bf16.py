"""Kernels in bf16 against their definitions, on all of ResNet-50's shapes and ragged ones.

A result differs from its twin by what float32 sums in another order round to bf16: by one last place now and then.
"""

import inspect

import numpy as np
import pytest
from tensors import blocked, error, normal
from test_kernels import RAGGED, shapes

from kernels import fast, naive_bf16
from kernels.epilogue import FusedBatchNorm
from kernels.jit import uncached_jit
from kernels.layout import BF16, stored_as, values_of
from kernels.vector import load, store

RTOL = 2.0**-7  # of the largest value: one last place of bf16
LARGE = 1e-5  # what sums of many products differ by in float32


def rounded(*shape, seed=0):
    """Random values that are bf16, as float32."""
    return values_of(stored_as(normal(*shape, seed=seed), BF16))


def stored(x):
    """NCHW values that are bf16, as the fast kernels store them, and as the naive twin does."""
    return stored_as(blocked(x), BF16), x.astype(naive_bf16.BF16)


def differ(got, expected):
    """The share of values that differ at all from their twins: ties that another order of sums decides otherwise."""
    return np.mean(got != expected.astype(np.float32))


def close(got, expected):
    assert error(got, expected.astype(np.float32)) <= RTOL
    assert differ(got, expected) < 0.01 or got.size < 2000


@pytest.mark.parametrize("winograd", ["auto", "always"])
@pytest.mark.parametrize("shape", shapes() + RAGGED, ids=lambda s: "x".join(map(str, s)))
def test_convolution(shape, winograd):
    n, c, k, h, w, kernel, stride, pad = shape
    if winograd == "always" and (kernel, stride, pad) != (3, 1, 1):
        pytest.skip("a direct convolution in any case")
    ops = fast.configured(winograd, "bf16")
    x, weights, bias = rounded(n, c, h, w), normal(k, c, kernel, kernel), normal(k)
    xs, ws = ops.pack(x, dtype=BF16), ops.pack_weights(weights)
    expected = naive_bf16.conv_forward(x.astype(naive_bf16.BF16), weights, bias, stride, pad)
    close(ops.unpack(ops.conv_forward(xs, ws, ops.pack_vector(bias), stride, pad), k), expected)

    dy, before = (rounded(*s, seed=1) for s in (expected.shape, x.shape))
    dys, dyn = stored(dy)
    for accumulate in (False, True):
        out = ops.pack(before, dtype=BF16)
        dx = ops.conv_backward_data(dys, ws, (h, w), stride, pad, out, accumulate)
        close(ops.unpack(dx, c), naive_bf16.conv_backward_data(
            dyn, weights, (h, w), stride, pad, before.astype(naive_bf16.BF16), accumulate))  # fmt: skip

    dw, db = np.ones_like(weights), np.ones_like(bias)
    naive_bf16.conv_backward_weights(x.astype(naive_bf16.BF16), dyn, dw, db, stride, pad)
    dws, dbs = ops.pack_weights(np.ones_like(weights)), ops.pack_vector(np.ones_like(bias))
    ops.conv_backward_weights(xs, dys, dws, dbs, stride, pad)
    assert error(ops.unpack_weights(dws, weights.shape), dw) < LARGE
    assert error(ops.unpack_vector(dbs, k), db) < LARGE


FUSED = [(16, 64, 64, 14, 14, 3, 1, 1), (5, 48, 20, 9, 7, 1, 1, 0), (3, 33, 18, 7, 8, 3, 2, 1)]


@pytest.mark.parametrize("shape", FUSED, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("residual", [False, True])
def test_what_a_convolution_does_besides(shape, residual):
    n, c, k, h, w, kernel, stride, pad = shape
    ops = fast.configured(precision="bf16")
    x, weights, bias = rounded(n, c, h, w), normal(k, c, kernel, kernel), normal(k)
    (xs, xn), ws, bs = stored(x), ops.pack_weights(weights), ops.pack_vector(bias)
    expected, found = np.empty((2, k)), np.empty((2, bs.size))
    y = naive_bf16.conv_forward(xn, weights, bias, stride, pad, statistics=expected)
    ops.conv_forward(xs, ws, bs, stride, pad, statistics=found)
    assert error(found[:, :k], expected) < 1e-4

    r = rounded(*y.shape, seed=2)
    rs, rn = stored(r) if residual else (None, None)
    made = {}
    for _ in range(2):  # the second with what the first has kept
        close(ops.unpack(ops.conv_inference(xs, ws, bs, stride, pad, rs, residual, made=made), k),
              naive_bf16.conv_inference(xn, weights, bias, stride, pad, rn, residual))  # fmt: skip
    assert made

    (zs, zn), (dys, dyn) = stored(rounded(n, c, h, w, seed=3)), stored(rounded(*y.shape, seed=4))
    (adds, addn) = stored(rounded(n, c, h, w, seed=5)) if residual else (None, None)
    gamma, beta = normal(c) + 1, normal(c, seed=1)
    gs, betas = ops.pack_vector(gamma), ops.pack_vector(beta)
    ys, mean, var = ops.batchnorm_forward(zs, gs, betas, 1e-5, adds, True)
    close(ops.unpack(ys, c), naive_bf16.batchnorm_forward(zn, gamma, beta, 1e-5, addn, True)[0])
    fused = FusedBatchNorm(zs, ys, gs, betas, mean, var, 1e-5, residual)
    plain = FusedBatchNorm(zn, ops.unpack(ys, c).astype(naive_bf16.BF16), None, None, mean[:c], None, 1e-5, residual)
    d, sums = ops.conv_backward_data(dys, ws, (h, w), stride, pad, fused_norm=fused)
    dn, sums_n = naive_bf16.conv_backward_data(dyn, weights, (h, w), stride, pad, fused_norm=plain)
    close(ops.unpack(d, c), dn)
    assert error(sums[:, :c], sums_n) < 1e-3


@pytest.mark.parametrize("shape", [(16, 64, 14, 14), (3, 20, 5, 7), (5, 48, 3, 2)])
@pytest.mark.parametrize("residual", [False, True])
def test_batch_norm(shape, residual):
    c, eps = shape[1], 1e-5
    (xs, xn), (rs, rn), (dys, dyn) = (stored(rounded(*shape, seed=i)) for i in range(3))
    gamma, beta = normal(c) + 1, normal(c, seed=1)
    gs, bs = fast.pack_vector(gamma), fast.pack_vector(beta)
    y, mean, var = fast.batchnorm_forward(xs, gs, bs, eps, rs if residual else None, True)
    yn, mean_n, var_n = naive_bf16.batchnorm_forward(xn, gamma, beta, eps, rn if residual else None, True)
    close(fast.unpack(y, c), yn)
    assert error(mean[:c], mean_n) < 1e-6
    assert error(var[:c], var_n) < 1e-6
    (dg, db), (dgs, dbs) = np.zeros((2, c), np.float32), np.zeros((2, gs.size), np.float32)
    keep, keep_n = np.empty_like(dys), np.empty_like(dyn)
    dx = fast.batchnorm_backward(dys, xs, y, gs, mean, var, eps, dgs, dbs, True, None, keep)
    yn = fast.unpack(y, c).astype(naive_bf16.BF16)
    dxn = naive_bf16.batchnorm_backward(dyn, xn, yn, gamma, mean_n, var_n, eps, dg, db, True, None, keep_n)
    close(fast.unpack(dx, c), dxn)
    assert np.array_equal(fast.unpack(keep, c), keep_n.astype(np.float32))
    assert error(dgs[:c], dg) < LARGE * 10
    assert error(dbs[:c], db) < LARGE * 10


@pytest.mark.parametrize("shape", [(16, 64, 30, 30), (2, 5, 9, 8), (3, 17, 3, 4)])
def test_pooling(shape):
    xs, xn = stored(np.round(2 * normal(*shape)))  # many ties: the first maximum wins
    y, winner = naive_bf16.maxpool_forward(xn)
    ys, winners = fast.maxpool_forward(xs)
    assert np.array_equal(fast.unpack(ys, shape[1]), y.astype(np.float32))
    assert np.array_equal(fast.unpack(winners, shape[1]), winner.astype(np.float32))
    dys, dyn = stored(rounded(*y.shape))
    close(fast.unpack(fast.maxpool_backward(dys, winners, shape[2:]), shape[1]),
          naive_bf16.maxpool_backward(dyn, winner, shape[2:]))  # fmt: skip
    close(fast.unpack(fast.average_forward(xs), shape[1]), naive_bf16.average_forward(xn))
    one, one_n = stored(rounded(*shape[:2], 1, 1))
    close(fast.unpack(fast.average_backward(one, shape[2:]), shape[1]), naive_bf16.average_backward(one_n, shape[2:]))


@pytest.mark.parametrize(("n", "c", "k"), [(16, 2048, 1000), (3, 20, 2)])
def test_classifier(n, c, k):
    (xs, xn), w, b, dy = stored(rounded(n, c, 1, 1)), normal(k, c, 1, 1), normal(k), normal(n, k)
    ws, bs = fast.pack_weights(w), fast.pack_vector(b)
    scores = fast.linear_forward(xs, ws, bs, k)
    assert scores.dtype == np.float32
    assert error(scores, naive_bf16.linear_forward(xn, w, b, k)) < LARGE
    (dw, db), (dws, dbs) = (np.zeros_like(w), np.zeros_like(b)), (np.zeros_like(ws), np.zeros_like(bs))
    dx = naive_bf16.linear_backward(dy, xn, w, dw, db)
    close(fast.unpack(fast.linear_backward(dy, xs, ws, dws, dbs), c), dx)
    assert error(fast.unpack_weights(dws, w.shape), dw) < LARGE
    assert error(dbs[:k], db) < LARGE


def test_rounding_is_to_nearest_even_and_keeps_what_is_not_finite():
    words = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    special = np.float32([np.inf, -np.inf, np.nan, 0, -0.0, 3.4e38, 1.00390625])
    values = np.concatenate([words.view(np.float32), special])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(naive_bf16.BF16)
    assert np.array_equal(values_of(stored_as(values, BF16)), expected.astype(np.float32), equal_nan=True)


def test_images_are_rounded():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 4), dtype=np.uint8)
    arguments = (pixels, (104, 117, 123), 0.0078125)
    found = fast.unpack(fast.pack_images(*arguments, BF16), 3)
    assert np.array_equal(found, naive_bf16.pack_images(*arguments).astype(np.float32))


def test_twins_have_one_signature():
    for name in fast.__all__:
        twin = getattr(naive_bf16, name)
        if callable(twin):
            parameters = [p for p in inspect.signature(getattr(fast, name)).parameters if p != "winograd"]
            assert parameters == list(inspect.signature(twin).parameters), name


@uncached_jit
def _store_all(values, out):
    for i in range(0, values.size, 16):
        store(out, i, load(values, i))


def test_compiled_rounding_is_the_same():
    words = np.random.default_rng(0).integers(0, 2**32, 1600, dtype=np.uint32)
    words[:800] = words[:800] & 0xFFFF0000 | 0x8000  # ties
    special = np.float32([np.inf, -np.inf, np.nan, -np.nan, 0, -0.0, 3.4e38, 1.00390625, 1.01171875, *[1] * 7])
    values = np.concatenate([words.view(np.float32), special])
    values[np.abs(values) < 2.0**-126] = 0  # denormal: the instruction takes it as zero
    out = np.zeros(values.size, BF16)
    _store_all(values, out)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(values_of(out), values_of(stored_as(values, BF16)), equal_nan=True)


def test_few_channels_in_blocks_of_16_are_refused():
    xs, dys = stored_as(blocked(normal(2, 3, 8, 8)), BF16), stored_as(blocked(normal(2, 16, 8, 8)), BF16)
    with pytest.raises(ValueError, match=r"has other lanes than dw .* expected 4"):
        fast.conv_backward_weights(xs, dys, fast.pack_weights(normal(16, 3, 3, 3)), None, 1, 1)


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match="precision is 'fp16', expected one of float32, bf16"):
        fast.configured(precision="fp16")
    x, w = stored_as(fast.pack(normal(2, 32, 5, 5)), BF16), fast.pack_weights(normal(16, 32, 3, 3))
    with pytest.raises(ValueError, match="dy is float32, expected uint16 as x"):
        fast.conv_backward_weights(x, fast.pack(normal(2, 16, 3, 3)), w)
