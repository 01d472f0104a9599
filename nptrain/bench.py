"""Microbenchmarks: what is timed is checked first, kernels are warm, times are medians."""

import statistics
import time

import numpy as np

from kernels import cpu, fast, naive
from nptrain.layers import convolutions
from nptrain.resnet import ResNet


def inputs_of_convolutions(size):
    """(Convolution, height of its input) for every convolution of ResNet-50 at a crop of `size`."""
    at = inner = None
    for conv in convolutions():
        if conv.name == "conv1":
            yield conv, size
            at = -(-((size - 1) // 2 + 1 - 3) // 2) + 1
        elif conv.name.endswith("branch1"):
            yield conv, at
        else:
            inner = at if conv.name.endswith("branch2a") else inner
            yield conv, inner
            inner = (inner - 1) // conv.stride + 1
            at = inner if conv.name.endswith("branch2c") else at


def seconds(call, repeats):
    """The median time of a warm call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def kernels(batch, crop_size, repeats):
    """Every distinct convolution shape and pass: error against float64 on two images, then speed."""
    uses = {}
    for conv, height in inputs_of_convolutions(crop_size):
        key = (conv.inputs, conv.outputs, conv.kernel, conv.stride, height)
        uses[key] = uses.get(key, 0) + 1
    rows, totals = [], {}
    for (c, k, kernel, stride, height), count in uses.items():
        peak = cpu.fma_peak()
        for name, call, flops, error in _passes(batch, c, k, kernel, stride, height):
            took = seconds(call, repeats)
            rows.append({"shape": f"{c}>{k} {kernel}x{kernel}/{stride} {height}", "uses": count, "pass": name,
                         "ms": took * 1e3, "gflops": flops / took / 1e9, "of_peak": flops / took / 1e9 / peak,
                         "error": error})  # fmt: skip
            total = totals.setdefault(name, [0.0, 0.0, peak])
            total[0] += count * flops
            total[1] += count * took
    for name, (flops, took, peak) in totals.items():
        rows.append({"shape": "all 53", "uses": 53, "pass": name, "ms": took * 1e3,
                     "gflops": flops / took / 1e9, "of_peak": flops / took / 1e9 / peak, "error": None})  # fmt: skip
    return {"batch": batch, "crop_size": crop_size, "peak_gflops": cpu.fma_peak(), "rows": rows}


def _passes(n, c, k, kernel, stride, height):
    """(pass, call, FLOPs, relative error on two images) of one shape."""
    pad, out = kernel // 2, (height + 2 * (kernel // 2) - kernel) // stride + 1
    rng = np.random.default_rng(0)
    w = rng.standard_normal((k, c, kernel, kernel), dtype=np.float32)
    flops = 2 * n * k * c * kernel**2 * out**2

    def arrays(count):
        x = rng.standard_normal((count, c, height, height), dtype=np.float32)
        return x, rng.standard_normal((count, k, out, out), dtype=np.float32)

    def calls(ops, x, dy, w, dw):
        size = (height, height)
        return {"forward": lambda: ops.conv_forward(x, w, None, stride, pad, out=outs.get("forward")),
                "data": lambda: ops.conv_backward_data(dy, w, size, stride, pad, out=outs.get("data")),
                "weights": lambda: ops.conv_backward_weights(x, dy, dw, None, stride, pad)}  # fmt: skip

    outs = {}
    x, dy = arrays(2)
    exact = calls(naive, *(a.astype(np.float64) for a in (x, dy, w)), np.zeros(w.shape))
    dw_exact, dw = np.zeros(w.shape), fast.pack_weights(np.zeros_like(w))
    exact["weights"] = lambda: naive.conv_backward_weights(
        x.astype(np.float64), dy.astype(np.float64), dw_exact, None, stride, pad)  # fmt: skip
    small = calls(fast, fast.pack(x), fast.pack(dy), fast.pack_weights(w), dw)
    errors = {}
    for name, unpack in (("forward", lambda y: fast.unpack(y, k)), ("data", lambda y: fast.unpack(y, c))):
        errors[name] = _error(unpack(small[name]()), exact[name]())
    small["weights"](), exact["weights"]()
    errors["weights"] = _error(fast.unpack_weights(dw, w.shape), dw_exact)
    x, dy = arrays(n)
    xs, dys = fast.pack(x), fast.pack(dy)
    outs.update(forward=np.empty_like(dys), data=np.empty_like(xs))
    timed = calls(fast, xs, dys, fast.pack_weights(w), dw)
    for name in ("forward", "data", "weights"):
        if not (name == "data" and c == 3):  # the images need no gradient
            yield name, timed[name], flops, errors[name]


def _error(got, exact):
    return float(np.abs(got - exact).max() / np.abs(exact).max())


def step(batch, crop_size, repeats):
    """A whole training step: images/s, GFLOP/s, share of peak (direct FLOPs), and the time of its parts."""
    network = ResNet(fast)
    network.arena.initialise(0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, 3, crop_size, crop_size), dtype=np.uint8)
    labels = rng.integers(0, 1000, batch)
    arena, parts = network.arena, {"input": [], "forward": [], "backward": [], "update": []}
    for repeat in range(repeats + 2):
        times = [time.perf_counter()]
        x = network.pack_images(pixels, (104, 117, 123), 0.0078125)
        arena.gradients[:] = 0
        times.append(time.perf_counter())
        network.forward(x, labels)
        times.append(time.perf_counter())
        network.backward()
        times.append(time.perf_counter())
        fast.sgd_update(arena.weights, arena.gradients[: arena.size], arena.history, 1e-3, 0.9, 5e-5)
        times.append(time.perf_counter())
        if repeat >= 2:
            for name, start, stop in zip(parts, times, times[1:], strict=False):
                parts[name].append(stop - start)
    took = statistics.median(map(sum, zip(*parts.values(), strict=True)))
    flops, peak = step_flops(crop_size) * batch, cpu.fma_peak()
    rows = [{"part": name, "ms": statistics.median(values) * 1e3} for name, values in parts.items()]
    return {"batch": batch, "crop_size": crop_size, "images_per_s": batch / took,
            "gflops": flops / took / 1e9, "of_peak": flops / took / 1e9 / peak,
            "peak_gflops": peak, "rows": rows}  # fmt: skip


def step_flops(crop_size, classes=1000):
    """Multiplications and additions of one image's step by direct convolutions: forward, and twice that back
    (but for conv1's data).
    """
    forward = {c.name: 2 * c.inputs * c.outputs * c.kernel**2 * ((h - 1) // c.stride + 1) ** 2
               for c, h in inputs_of_convolutions(crop_size)}  # fmt: skip
    return 3 * (sum(forward.values()) + 2 * 2048 * classes) - forward["conv1"]


def table(result):
    """The result as text: the rows in columns, then the totals in a line."""
    rows = result["rows"]
    cells = [[_cell(name, row[name]) for name in rows[0]] for row in rows]
    widths = [max(map(len, column)) for column in zip(list(rows[0]), *cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
             for line in [list(rows[0]), *cells]]  # fmt: skip
    totals = ", ".join(f"{name} {_cell(name, value)}" for name, value in result.items() if name != "rows")
    return "\n".join([*lines, totals])


def _cell(name, value):
    if value is None:
        return ""
    if name == "of_peak":
        return f"{value:.0%}"
    if name == "error":
        return f"{value:.0e}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
