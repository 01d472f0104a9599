"""Every compiled kernel against its NumPy twin in float64, on all of ResNet-50's shapes and ragged ones."""

import inspect

import numba
import numpy as np
import pytest
from tensors import RTOL, blocked, check_convolution, error, normal

from kernels import fast, naive
from kernels.vector import load, load_if, splat, store
from nptrain.bench.shapes import inputs_of_convolutions


def shapes():
    """The distinct shapes among the 53, batch 2, as (N, C, K, H, W, kernel, stride, pad)."""
    found = [(2, c.inputs, c.outputs, h, h, c.kernel, c.stride, c.pad) for c, h in inputs_of_convolutions(224)]
    assert len(found) == 53
    return list(dict.fromkeys(found))


RAGGED = [
    (1, 1, 1, 1, 1, 1, 1, 0), (3, 5, 7, 9, 4, 3, 1, 1), (5, 17, 33, 6, 7, 3, 2, 1),
    (2, 3, 20, 33, 31, 7, 2, 3), (19, 16, 16, 5, 3, 3, 1, 1), (4, 40, 24, 7, 5, 1, 2, 0),
    (33, 32, 16, 1, 1, 3, 1, 1), (2, 18, 3, 8, 8, 5, 3, 2), (16, 16, 48, 2, 2, 3, 2, 1),
    (7, 2, 50, 10, 11, 3, 1, 0), (17, 64, 64, 4, 4, 1, 1, 0), (4, 32, 48, 5, 6, 1, 1, 2),
    (3, 3, 16, 5, 6, 1, 1, 1), (2, 90, 40, 3, 3, 1, 1, 0), (3, 40, 88, 3, 3, 1, 1, 0),
]  # fmt: skip


def test_the_53_shapes_are_the_paper_s():
    total = sum(
        2 * c.inputs * c.outputs * c.kernel**2 * (-(-h // c.stride)) ** 2 for c, h in inputs_of_convolutions(224)
    )
    assert total == pytest.approx(8.17e9, rel=0.01)


@pytest.mark.parametrize("shape", shapes() + RAGGED, ids=lambda s: "x".join(map(str, s)))
def test_convolution(shape):
    check_convolution(shape)


@pytest.mark.parametrize("shape", [(16, 64, 14, 14), (3, 20, 5, 7), (2, 7, 1, 1), (5, 48, 3, 2)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_batchnorm(shape, relu, residual):
    c, eps = shape[1], 1e-5
    x, r, dy = (3 * normal(*shape, seed=i) + 2 for i in range(3))
    r = r if residual else None
    gamma, beta = normal(c) + 1, normal(c, seed=1)
    wide = [a if a is None else a.astype(np.float64) for a in (x, gamma, beta, r, dy)]
    exact, mean, var = naive.batchnorm_forward(*wide[:3], eps, wide[3], relu)
    xs, rs, dys = (None if a is None else blocked(a) for a in (x, r, dy))
    gs, bs = fast.pack_vector(gamma), fast.pack_vector(beta)
    y, m, v = fast.batchnorm_forward(xs, gs, bs, eps, rs, relu)
    assert error(fast.unpack(y, c), exact) < RTOL
    assert error(m[:c], mean) < 1e-6
    assert error(v[:c], var) < 1e-6
    still = fast.batchnorm_inference(xs, gs, bs, m, v, eps, rs, relu)
    assert np.array_equal(still, y)

    dg, db, kept = np.ones(c), np.ones(c), np.zeros_like(exact)
    exact_dx = naive.batchnorm_backward(wide[4], wide[0], exact, wide[1], mean, var, eps, dg, db, relu, None, kept)
    dgs, dbs, d = fast.pack_vector(np.ones(c)), fast.pack_vector(np.ones(c)), np.empty_like(dys)
    dx = fast.batchnorm_backward(dys, xs, y, gs, m, v, eps, dgs, dbs, relu, None, d)
    if shape != (2, 7, 1, 1):  # two values normalise to +-1: dx is rounding noise
        assert error(fast.unpack(dx, c), exact_dx) < RTOL
    for got, expected in ((fast.unpack(d, c), kept), (dgs[:c], dg), (dbs[:c], db)):
        assert error(got, expected) < RTOL
    in_place = dys.copy()
    fast.batchnorm_backward(in_place, xs, y, gs, m, v, eps, dgs, dbs, relu, in_place)
    assert np.array_equal(in_place, dx)


@pytest.mark.parametrize("shape", [(16, 64, 112, 112), (2, 5, 9, 8), (3, 17, 3, 4), (1, 16, 7, 7)])
def test_max_pooling(shape):
    x = np.round(2 * normal(*shape))  # many ties: the first maximum wins
    y, winner = naive.maxpool_forward(x)
    ys, winners = fast.maxpool_forward(blocked(x))
    assert np.array_equal(fast.unpack(ys, shape[1]), y)
    assert np.array_equal(fast.unpack(winners, shape[1]), winner)
    dy = normal(*y.shape)
    dx = fast.maxpool_backward(blocked(dy), winners, shape[2:])
    assert error(fast.unpack(dx, shape[1]), naive.maxpool_backward(dy.astype(np.float64), winner, shape[2:])) < RTOL


def test_max_pooling_is_caffe_s_ceil_mode():
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    y, _ = naive.maxpool_forward(x)
    assert y.tolist() == [[[[10, 11], [14, 15]]]]
    assert naive.maxpool_forward(np.zeros((1, 1, 112, 112)))[0].shape == (1, 1, 56, 56)


@pytest.mark.parametrize("shape", [(16, 2048, 7, 7), (3, 20, 2, 5)])
def test_average_pooling(shape):
    x, dy = normal(*shape), normal(*shape[:2], 1, 1)
    assert error(fast.unpack(fast.average_forward(blocked(x)), shape[1]), naive.average_forward(x)) < RTOL
    dx = fast.average_backward(blocked(dy), shape[2:])
    assert error(fast.unpack(dx, shape[1]), naive.average_backward(dy, shape[2:])) < RTOL


@pytest.mark.parametrize(("n", "c", "k"), [(16, 2048, 1000), (3, 20, 2), (1, 64, 10)])
def test_inner_product(n, c, k):
    x, w, b, dy = normal(n, c, 1, 1), normal(k, c, 1, 1), normal(k), normal(n, k)
    xs, ws, bs = blocked(x), fast.pack_weights(w), fast.pack_vector(b)
    wide = [a.astype(np.float64) for a in (x, w, b, dy)]
    assert error(fast.linear_forward(xs, ws, bs, k), naive.linear_forward(*wide[:3], k)) < RTOL
    dw, db = np.ones_like(wide[1]), np.ones(k)
    dx = naive.linear_backward(wide[3], *wide[:2], dw, db)
    dws, dbs = fast.pack_weights(np.ones_like(w)), fast.pack_vector(np.ones(k))
    dxs = fast.linear_backward(dy, xs, ws, dws, dbs)
    assert error(fast.unpack(dxs, c), dx) < RTOL
    assert error(fast.unpack_weights(dws, w.shape), dw) < RTOL
    assert error(fast.unpack_vector(dbs, k), db) < RTOL


@pytest.mark.parametrize("size", [1, 15, 100_003])
@pytest.mark.parametrize("l1", [False, True])
def test_update(size, l1):
    w, g, h = (normal(size, seed=i) for i in range(3))
    expected = [a.astype(np.float64) for a in (w, g, h)]
    for ops, arrays in ((fast, (w, g, h)), (naive, expected)):
        ops.sgd_update(*arrays, rate=0.1, momentum=0.9, decay=0.01, scale=0.25, l1=l1)
    assert error(w, expected[0]) < 1e-6
    assert error(h, expected[2]) < 1e-6
    totals = [np.full(size, 0.1), np.full(size, 0.1)]
    fast.add_into(totals[0], w)
    naive.add_into(totals[1], w)
    assert np.array_equal(*totals)
    assert fast.squared_norm(w) == pytest.approx(naive.squared_norm(w), rel=1e-12)


def test_softmax_loss_by_hand():
    scores = np.array([[0, np.log(3)], [5, 5]])
    loss, probabilities = naive.softmax_loss(scores, np.array([1, 0]))
    assert probabilities == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))
    assert loss == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    assert naive.softmax_loss(np.array([[0, 1e9]]), np.array([0]))[0] == pytest.approx(-np.log(1.17549435e-38))


def test_top_k():
    scores = np.array([[1, 2, 3], [3, 2, 1], [2, 2, 2], [np.nan] * 3])
    labels = np.array([2, 2, 0, 0])
    assert [naive.top_k(scores, labels, k) for k in (1, 2, 3)] == [1, 1, 3]


def test_images_are_scaled_and_layouts_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 4), dtype=np.uint8)
    arguments = (pixels, (104, 117, 123), 0.0078125)
    assert np.array_equal(fast.unpack(fast.pack_images(*arguments), 3), naive.pack_images(*arguments))
    x, w = normal(3, 21, 4, 5), normal(19, 3, 2, 2)
    assert np.array_equal(fast.unpack(fast.pack(x), 21), x)
    assert np.array_equal(fast.unpack_weights(fast.pack_weights(w), w.shape), w)


def test_twins_have_one_signature():
    for name in fast.__all__:
        twin = getattr(naive, name)
        if callable(twin):
            parameters = [p for p in inspect.signature(getattr(fast, name)).parameters if p != "winograd"]
            assert parameters == list(inspect.signature(twin).parameters), name


def test_a_nan_surfaces():
    x = blocked(np.full((2, 16, 6, 6), np.nan, np.float32))
    ones = np.ones(16, np.float32)
    assert np.isnan(fast.maxpool_forward(x)[0]).all()
    assert np.isnan(fast.batchnorm_forward(x, ones, ones, 1e-5, relu=True)[0]).all()
    assert np.isnan(fast.conv_forward(x, np.ones((1, 1, 1, 1, 16, 16), np.float32))).all()


def test_wrong_shapes_are_refused():
    x, w = fast.pack(normal(2, 32, 5, 5)), fast.pack_weights(normal(16, 16, 3, 3))
    with pytest.raises(ValueError, match="other channels"):
        fast.conv_forward(x, w)
    with pytest.raises(ValueError, match="expected float32, or uint16 that holds bf16"):
        fast.conv_forward(x.astype(np.float64), w)
    with pytest.raises(ValueError, match="does not fit"):
        fast.conv_forward(fast.pack(normal(2, 16, 2, 2)), w)


@numba.njit
def read(array):
    load(array, 0)


@numba.njit
def read_if(array):
    load_if(array, 0, True)


@numba.njit
def write(array):
    store(array, 0, splat(np.float32(1)))


@pytest.mark.parametrize(
    ("use", "right", "wrong"),
    [(read, "fdH", "eqi"), (read_if, "fH", "dih"), (write, "fH", "dih")],
    ids=["load", "load_if", "store"],
)
def test_vectors_refuse_arrays_of_other_numbers(use, right, wrong):
    for code in right:
        use(np.zeros(16, code))
    for code in wrong:
        with pytest.raises(numba.TypingError, match=r"expected (an array of float32|vector16x64)"):
            use(np.zeros(16, code))
