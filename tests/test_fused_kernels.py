"""Convolutions by Winograd's algorithm, and what convolutions do to a result in the cache: sums, ReLU and bias."""

import numba
import numpy as np
import pytest
from tensors import RTOL, blocked, check_convolution, error, normal

from kernels import fast, layout, naive
from kernels.epilogue import FusedBatchNorm
from kernels.vector import load, store
from kernels.winograd_division import uses_winograd
from kernels.winograd_transforms import (
    A_T,
    B_T,
    G,
    gradient_points,
    input_points,
    kernel_points,
    kernel_values,
    output_values,
)

WINOGRAD = [
    (4, 64, 64, 56, 56), (3, 128, 128, 28, 28), (5, 256, 256, 14, 14), (16, 512, 512, 7, 7),
    (17, 40, 33, 9, 3), (33, 32, 48, 4, 5), (2, 17, 144, 13, 6), (1, 16, 16, 1, 1), (40, 129, 20, 2, 3),
]  # fmt: skip


@pytest.mark.parametrize("shape", WINOGRAD, ids=lambda s: "x".join(map(str, s)))
def test_winograd(shape):
    check_convolution((*shape, 3, 1, 1), fast.configured("always"))


def test_winograd_is_chosen_where_it_is_faster():
    kernel, few, pointwise = (4, 4, 3, 3, 16, 16), (1, 1, 3, 3, 16, 16), (4, 4, 1, 1, 16, 16)
    large, small = (4, 56, 56, 16, 16), (4, 2, 2, 64, 16)
    assert uses_winograd("auto", kernel, large, 1, 1)
    for mode, w, y, stride, pad in (
        ("auto", kernel, small, 1, 1),  # most taps are outside the map
        ("auto", few, large, 1, 1),
        ("never", kernel, large, 1, 1),
        ("always", kernel, large, 2, 1),
        ("always", pointwise, large, 1, 0),
    ):
        assert not uses_winograd(mode, w, y, stride, pad)
    assert uses_winograd("always", few, small, 1, 1)


def test_the_mode_of_winograd_is_an_argument_or_bound():
    x, w = blocked(normal(2, 32, 8, 8)), fast.pack_weights(normal(48, 32, 3, 3))
    results = {}
    for mode in ("auto", "always", "never"):
        kernels = fast.configured(mode)
        assert all(hasattr(kernels, name) for name in fast.__all__)
        assert kernels.__all__ == fast.__all__
        assert kernels.IN_PLACE
        results[mode] = kernels.conv_forward(x, w, None, 1, 1)
        assert np.array_equal(results[mode], fast.conv_forward(x, w, None, 1, 1, winograd=mode))
    assert not np.array_equal(results["always"], results["never"])
    with pytest.raises(ValueError, match="winograd is 'sometimes', expected one of auto, always, never"):
        fast.configured("sometimes")
    with pytest.raises(ValueError, match="winograd is 'sometimes'"):
        fast.conv_forward(x, w, winograd="sometimes")


FUSED = [(16, 64, 64, 56, 56, 3, 1, 1), (17, 32, 48, 14, 9, 3, 1, 1), (16, 256, 256, 14, 14, 3, 1, 1),
         (5, 48, 20, 9, 7, 1, 1, 0), (16, 64, 256, 56, 56, 1, 1, 0), (3, 33, 18, 7, 8, 3, 2, 1),
         (4, 20, 40, 7, 5, 1, 2, 0), (2, 16, 16, 1, 1, 1, 1, 0)]  # fmt: skip


@pytest.mark.parametrize("shape", FUSED, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("residual", [False, True])
def test_what_a_convolution_does_besides(shape, residual):
    n, c, k, h, w, kernel, stride, pad = shape
    x, weights, bias = normal(n, c, h, w), normal(k, c, kernel, kernel), normal(k)
    wide = [a.astype(np.float64) for a in (x, weights, bias)]
    exact_statistics, statistics = np.empty((2, k)), np.empty((2, layout.blocks_of(k) * 16))
    exact = naive.conv_forward(*wide, stride, pad, statistics=exact_statistics)
    xs, ws, bs = blocked(x), fast.pack_weights(weights), fast.pack_vector(bias)
    y = fast.conv_forward(xs, ws, bs, stride, pad, statistics=statistics)
    assert error(fast.unpack(y, k), exact) < RTOL
    assert error(statistics[0, :k], exact_statistics[0]) < 1e-5
    assert error(statistics[1, :k], exact_statistics[1]) < 1e-5

    r = normal(*exact.shape, seed=2) if residual else None
    exact_y = naive.conv_inference(*wide, stride, pad, r, residual)
    still = fast.conv_inference(xs, ws, bs, stride, pad, blocked(r) if residual else None, residual)
    assert error(fast.unpack(still, k), exact_y) < RTOL
    made = {}
    for _ in range(2):  # the second with what the first has kept
        again = fast.conv_inference(xs, ws, bs, stride, pad, blocked(r) if residual else None, residual, made=made)
        assert np.array_equal(again, still)

    # back through y = relu(norm(z) [+ residual]), which is the convolution's input here
    z, dy, added = normal(n, c, h, w, seed=3), normal(*exact.shape, seed=4), normal(n, c, h, w, seed=5)
    gamma, beta = normal(c) + 1, normal(c, seed=1)
    zs, gs, betas = blocked(z), fast.pack_vector(gamma), fast.pack_vector(beta)
    ys, mean, var = fast.batchnorm_forward(zs, gs, betas, 1e-5, blocked(added) if residual else None, True)
    fused = FusedBatchNorm(zs, ys, gs, betas, mean, var, 1e-5, residual)
    plain = FusedBatchNorm(z.astype(np.float64), fast.unpack(ys, c), None, None, mean[:c], None, 1e-5, residual)
    before = normal(n, c, h, w, seed=6)
    exact_d, exact_sums = naive.conv_backward_data(
        dy.astype(np.float64), wide[1], (h, w), stride, pad, before.astype(np.float64), True, plain)  # fmt: skip
    d, sums = fast.conv_backward_data(blocked(dy), ws, (h, w), stride, pad, blocked(before), True, fused)
    assert error(fast.unpack(d, c), exact_d) < RTOL
    assert np.array_equal(fast.unpack(d, c) == 0, fast.unpack(ys, c) <= 0)
    assert error(sums[0, :c], exact_sums[0]) < 1e-4
    assert error(sums[1, :c], exact_sums[1]) < 1e-4

    results = []
    for ops, arrays in ((fast, (d, zs, ys, gs, mean, var)), (naive, (exact_d, *plain[:2], gamma, mean[:c], var[:c]))):
        dgamma, dbeta = (np.ones(arrays[3].shape) for _ in range(2))
        known = sums if ops is fast else exact_sums
        dz = ops.batchnorm_backward(*arrays, 1e-5, dgamma, dbeta, True, sums=known)
        results.append((ops.unpack(dz, c), dgamma[:c], dbeta[:c]))
    for got, expected in zip(*results, strict=True):
        if n * h * w > 2:
            assert error(got, expected) < RTOL


def test_a_residual_of_another_shape_is_refused():
    x, w, bias = blocked(normal(2, 16, 4, 4)), fast.pack_weights(normal(16, 16, 3, 3)), fast.pack_vector(normal(16))
    with pytest.raises(ValueError, match="residual of 288 values, expected 512"):
        fast.conv_inference(x, w, bias, 1, 1, residual=blocked(normal(2, 16, 3, 3)))


def test_the_maps_of_winograd_are_a_convolution():
    """In one dimension: At [(G g) * (Bt d)] is the four sums of three products."""
    d, g = normal(6).astype(np.float64), normal(3).astype(np.float64)
    y = A_T @ ((G @ g) * (B_T @ d))
    assert y == pytest.approx(np.correlate(d, g, "valid"))


@pytest.mark.parametrize(
    ("function", "matrix"),
    [(input_points, B_T), (kernel_points, G), (output_values, A_T), (gradient_points, A_T.T), (kernel_values, G.T)],
)
def test_each_map_is_its_matrix(function, matrix):
    outputs, inputs = matrix.shape
    values, got = normal(inputs, 16), np.zeros((outputs, 16), np.float32)
    apply_map(function, inputs, values.reshape(-1), got.reshape(-1))
    assert error(got, matrix @ values.astype(np.float64)) < 1e-6


def apply_map(function, inputs, values, got):
    loads = ", ".join(f"load(values, {16 * i})" for i in range(inputs))
    names = {"load": load, "store": store, "function": function}
    source = f"def run(values, got):\n    for i, v in enumerate(function({loads})):\n        store(got, i * 16, v)"
    exec(source, names)  # the maps take a value an argument, as many as they have inputs
    numba.njit(names["run"])(values, got)
