"""The operations of a training step under the machine's two roofs, FMA peak and memory bandwidth (Williams, Waterman,
Patterson, "Roofline", CACM 2009).

Intensity is FLOPs divided by the least bytes that an operation has to move. A point may lie above the slope of the
memory if its arrays stay in a cache.
"""

from collections import Counter

import numpy as np

from kernels import cpu, fast
from kernels.layout import stored_as
from nptrain.bench import convolutions
from nptrain.bench.shapes import CLASSES, FEATURES, FLOAT, distinct_shapes
from nptrain.bench.timing import conditions, seconds
from nptrain.network.arena import Arena
from nptrain.network.layers import layers
from nptrain.report import picture

EPS = 1e-5


def measure(batch, crop_size, repeats, out=None, precision="float32"):
    """A row for each operation: ms, FLOP/byte, GFLOP/s and its share of the lower roof; then FMA peak and memory
    bandwidth, each the better of two measurements, before and after. With `out`, a picture.
    """
    if out is not None:
        picture.check(out)
    peak, bandwidth = cpu.fma_peak(precision=precision), cpu.memory_bandwidth()
    common = (batch, crop_size, repeats, precision)
    operations = [*_convolutions(*common), *_others(*common)]
    peak, bandwidth = max(peak, cpu.fma_peak(precision=precision)), max(bandwidth, cpu.memory_bandwidth())
    rows = []
    for kind, label, flops, traffic, took in operations:
        speed, roof = flops / took / 1e9, min(peak, flops / traffic * bandwidth)
        rows.append({"kind": kind, "of": label, "ms": took * 1e3, "intensity": flops / traffic, "gflops": speed,
                     "of_roof": speed / roof})  # fmt: skip
    result = {"rows": rows, **conditions(*common), "peak_gflops": peak, "bandwidth": bandwidth}
    if out is None:
        return result
    from nptrain.bench.plot import draw  # here: importing Matplotlib takes a second

    draw(result, out)
    return {**result, "picture": str(out)}


def _convolutions(batch, crop_size, repeats, precision):
    for shape in distinct_shapes(crop_size):
        for name, kernel, call, _ in convolutions.passes(shape, batch, precision):
            if kernel != convolutions.used_kernel(shape, batch, precision):
                continue
            kind = f"conv {name}" + ("" if kernel == "direct" else f" {kernel}")
            traffic = shape.traffic(name, batch, fast.STORED[precision].itemsize)
            yield kind, shape.label, shape.flops * batch, traffic, seconds(call, repeats)


def _others(batch, crop_size, repeats, precision):
    """All other operations. FLOPs are those of their definitions in `kernels.naive`, comparisons included."""
    shapes = distinct_shapes(crop_size)
    stem, last = next(iter(shapes)), next(reversed(shapes))
    operations = [operation for channels, height in Counter((s.outputs, s.out) for s in shapes)
                  for operation in _batchnorm(batch, channels, height, precision)]  # fmt: skip
    operations += [*_pooling(batch, stem.outputs, stem.out, precision), *_head(batch, last.out, precision), _update()]
    for kind, label, flops, traffic, call in operations:
        yield kind, label, flops, traffic, seconds(call, repeats)


def _batchnorm(n, channels, height, precision):
    x, dy = (_activation(channels, height, n, precision) for _ in range(2))
    gamma, beta, y, dx = np.ones(channels, np.float32), np.zeros(channels, np.float32), x.copy(), x.copy()
    _, mean, var = fast.batchnorm_forward(x, gamma, beta, EPS, None, True, y)
    label = f"{channels} {height}x{height}"
    yield ("batch norm forward", label, 7 * x.size, 2 * x.nbytes,
           lambda: fast.batchnorm_forward(x, gamma, beta, EPS, None, True, y))  # fmt: skip
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(beta)
    yield ("batch norm backward", label, 11 * x.size, 4 * x.nbytes,
           lambda: fast.batchnorm_backward(dy, x, y, gamma, mean, var, EPS, dgamma, dbeta, True, dx))  # fmt: skip


def _pooling(n, channels, height, precision):
    x = _activation(channels, height, n, precision)
    y, winner = fast.maxpool_forward(x)
    label, traffic = f"{channels} {height}x{height}", x.nbytes + y.nbytes + winner.nbytes
    yield "pooling", f"max {label}", 9 * y.size, traffic, lambda: fast.maxpool_forward(x, out=y)
    yield ("pooling", f"max back {label}", y.size, traffic,
           lambda: fast.maxpool_backward(y, winner, (height, height), out=x))  # fmt: skip


def _head(n, height, precision):
    """Average pooling and the classifier."""
    x = _activation(FEATURES, height, n, precision)
    pooled, label = fast.average_forward(x), f"{FEATURES} {height}x{height}"
    traffic = x.nbytes + pooled.nbytes
    yield "pooling", f"mean {label}", x.size, traffic, lambda: fast.average_forward(x)
    yield ("pooling", f"mean back {label}", x.size, traffic,
           lambda: fast.average_backward(pooled, (height, height), out=x))  # fmt: skip
    w, bias = fast.pack_weights(_normal(CLASSES, FEATURES, 1, 1)), fast.pack_vector(_normal(CLASSES))
    dw, dbias, scores = np.zeros_like(w), np.zeros_like(bias), _normal(n, CLASSES)
    flops, small = 2 * n * FEATURES * CLASSES, pooled.nbytes + scores.nbytes
    label = f"{FEATURES}>{CLASSES}"
    yield ("linear", label, flops, w.nbytes + small,
           lambda: fast.linear_forward(pooled, w, bias, CLASSES))  # fmt: skip
    yield ("linear", f"back {label}", 2 * flops, 3 * w.nbytes + small,
           lambda: fast.linear_backward(scores, pooled, w, dw, dbias))  # fmt: skip


def _update():
    size = Arena(layers(), fast).size
    w, g, history = (np.ones(size, np.float32) for _ in range(3))  # zeros would not be allocated yet
    return ("update", f"{size / 1e6:.1f} million", 7 * size, 5 * FLOAT * size,
            lambda: fast.sgd_update(w, g, history, 1e-3, 0.9, 5e-5))  # fmt: skip


def _activation(channels, height, n, precision):
    return stored_as(_normal(channels // 16, height, height, n, 16), fast.STORED[precision])


def _normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
