"""Gradients by central differences in float64: every operation alone, and a whole small ResNet."""

import numpy as np
import pytest

from kernels import naive
from nptrain.network.layers import Architecture
from nptrain.network.resnet import ResNet

RTOL = 1e-6


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def slope(f, x, direction, step=1e-5):
    """d f(x + t direction) / dt at 0, by central differences of fourth order."""
    at = [f(x + k * step * direction) for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)


def check(f, x, dx, step=1e-5):
    """The gradient dx of the scalar f at x, along three random directions and a few single elements."""
    directions = [normal(*x.shape, seed=k) for k in range(3)]
    for index in np.random.default_rng(0).integers(0, x.size, 4):
        one = np.zeros(x.size)
        one[index] = 1
        directions.append(one.reshape(x.shape))
    scale = np.sqrt(np.mean(dx**2))
    for direction in directions:
        expected, got = slope(f, x, direction, step), float((dx * direction).sum())
        assert abs(got - expected) <= RTOL * max(abs(expected), scale)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(7, 2, 3), (3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (2, 3, 1)]
)
def test_convolution(kernel, stride, pad):
    x, w, b = normal(2, 3, 9, 8), normal(4, 3, kernel, kernel), normal(4)
    y = naive.conv_forward(x, w, b, stride, pad)
    dy = normal(*y.shape, seed=1)

    def loss(x, w, b):
        return (naive.conv_forward(x, w, b, stride, pad) * dy).sum()

    dw, db = np.zeros_like(w), np.zeros_like(b)
    naive.conv_backward_weights(x, dy, dw, db, stride, pad)
    check(lambda v: loss(v, w, b), x, naive.conv_backward_data(dy, w, x.shape[2:], stride, pad))
    check(lambda v: loss(x, v, b), w, dw)
    check(lambda v: loss(x, w, v), b, db)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_batchnorm(relu, residual):
    x, gamma, beta, r = normal(3, 4, 3, 2) * 2 + 1, normal(4) + 2, normal(4), normal(3, 4, 3, 2, seed=2)
    eps, added = 1e-5, r if residual else None
    y, mean, var = naive.batchnorm_forward(x, gamma, beta, eps, added, relu)
    dy = normal(*y.shape, seed=1)

    def loss(x, gamma, beta, r):
        return (naive.batchnorm_forward(x, gamma, beta, eps, r if residual else None, relu)[0] * dy).sum()

    dgamma, dbeta, dr = np.zeros(4), np.zeros(4), np.zeros_like(x)
    dx = naive.batchnorm_backward(dy, x, y, gamma, mean, var, eps, dgamma, dbeta, relu, None, dr)
    check(lambda v: loss(v, gamma, beta, r), x, dx)
    check(lambda v: loss(x, v, beta, r), gamma, dgamma)
    check(lambda v: loss(x, gamma, v, r), beta, dbeta)
    if residual:
        check(lambda v: loss(x, gamma, beta, v), r, dr)


def test_relu():
    x, dy = normal(3, 4, 5, 6), normal(3, 4, 5, 6, seed=1)
    check(lambda v: (naive.relu_forward(v) * dy).sum(), x, naive.relu_backward(dy, naive.relu_forward(x)), 1e-7)


@pytest.mark.parametrize("size", [(9, 8), (7, 7), (3, 4)])
def test_pooling(size):
    x = normal(2, 3, *size)
    y, winner = naive.maxpool_forward(x)
    dy = normal(*y.shape, seed=1)
    dx = naive.maxpool_backward(dy, winner, size)
    check(lambda v: (naive.maxpool_forward(v)[0] * dy).sum(), x, dx)
    dy = normal(2, 3, 1, 1)
    check(lambda v: (naive.average_forward(v) * dy).sum(), x, naive.average_backward(dy, size))


def test_inner_product():
    x, w, b, dy = normal(3, 5, 1, 1), normal(4, 5, 1, 1), normal(4), normal(3, 4)
    dw, db = np.zeros_like(w), np.zeros_like(b)
    dx = naive.linear_backward(dy, x, w, dw, db)
    check(lambda v: (naive.linear_forward(v, w, b, 4) * dy).sum(), x, dx)
    check(lambda v: (naive.linear_forward(x, v, b, 4) * dy).sum(), w, dw)
    check(lambda v: (naive.linear_forward(x, w, v, 4) * dy).sum(), b, db)


def test_softmax_loss():
    scores, labels = normal(5, 7), np.array([0, 6, 3, 3, 1])
    _, probabilities = naive.softmax_loss(scores, labels)
    gradient = naive.softmax_loss_backward(probabilities, labels)
    check(lambda v: naive.softmax_loss(v, labels)[0], scores, gradient)


@pytest.mark.parametrize("depth", [18, 50])
def test_whole_network(depth):
    network = ResNet(naive, classes=5, architecture=Architecture(depth, width=32), dtype=np.float64)
    arena = network.arena
    arena.initialise(seed=1)
    for parameter in arena.parameters:  # the zero gammas would hide their branches
        if parameter.kind == "Scale":
            parameter.w[...] += 0.3 * normal(*parameter.w.shape, seed=2)
    x, labels = normal(4, 3, 64, 64), np.array([0, 4, 2, 1])
    network.forward(x, labels)
    network.backward()

    def loss(parameter, values):
        parameter.w[...] = values
        return network.forward(x, labels)[0]

    chosen = [p for p in arena.parameters if p.layer == "fc1000" or "2a_" in p.layer or p.layer == "scale_conv1"]
    assert len(chosen) > 8
    for parameter in chosen:
        w, dw = parameter.w.copy(), parameter.dw
        direction = dw + np.sqrt(np.mean(dw**2)) * normal(*w.shape)
        direction /= np.sqrt((direction**2).sum())
        # so small a step that hardly a ReLU changes sides
        expected = slope(lambda v, p=parameter: loss(p, v), w, direction, 5e-8)
        parameter.w[...] = w
        assert float((dw * direction).sum()) == pytest.approx(expected, rel=RTOL)
