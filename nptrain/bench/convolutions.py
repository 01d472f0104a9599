"""Every distinct convolution of ResNet-50, in every pass and with every kernel: its error, then its speed."""

import numpy as np

from kernels import cpu, fast, naive
from kernels.winograd_division import uses_winograd
from nptrain.bench.shapes import distinct_shapes
from nptrain.bench.timing import conditions, seconds
from nptrain.errors import InputError

TOLERANCE = 1e-3  # relative to the largest value; usual errors are about 1e-6


def kernels_of(shape):
    """Yields (name, mode of `fast.with_winograd`) of the kernels that can compute this shape."""
    yield "direct", "never"
    if shape.kernel == 3 and shape.stride == 1:
        yield "winograd", "always"


def used_kernel(shape, batch):
    """The kernel that the network uses for this shape at this batch."""
    stored = fast.weights_shape(shape.outputs, shape.inputs, shape.kernel, shape.kernel)
    result = fast.activation_shape(batch, shape.outputs, shape.out, shape.out)
    return "winograd" if uses_winograd("auto", stored, result, shape.stride, shape.pad) else "direct"


def measure(batch, crop_size, repeats, only=""):
    """A row for each shape whose label contains `only`, each kernel and each pass: median ms, GFLOP/s, its share of the
    FMA peak measured just before, and the relative error against float64 on two images. Last, sums over all
    convolutions of the network, with the kernels that it uses.
    """
    rows, totals = [], {}
    for shape, uses in chosen(crop_size, only).items():
        peak = cpu.fma_peak()
        for name, kernel, call, error in passes(shape, batch):
            took, flops = seconds(call, repeats), shape.flops * batch
            rows.append(_row(shape.label, uses, name, kernel, took, flops, flops / peak / 1e9, error))
            if kernel == used_kernel(shape, batch):
                total = totals.setdefault(name, np.zeros(4))
                total += [uses, *(uses * value for value in (took, flops, flops / peak / 1e9))]
    for name, (uses, *values) in totals.items():
        rows.append(_row("sum", int(uses), name, "used", *values, None))
    return {"rows": rows, **conditions(batch, crop_size, repeats), "peak_gflops": cpu.fma_peak()}


def chosen(crop_size, only=""):
    """{Shape: uses} of those whose label contains `only`. Raises InputError if there is none."""
    shapes = distinct_shapes(crop_size)
    matching = {shape: uses for shape, uses in shapes.items() if only in shape.label}
    if not matching:
        example = next(reversed(shapes)).label
        raise InputError(f"--shape: found {only!r}, expected a part of one like {example!r}")
    return matching


def _row(label, uses, name, kernel, took, flops, at_peak, error):
    return {"shape": label, "uses": uses, "pass": name, "kernel": kernel, "ms": took * 1e3,
            "gflops": flops / took / 1e9, "of_peak": at_peak / took, "error": error}  # fmt: skip


def passes(shape, batch):
    """Yields (pass, kernel, call on `batch` images, relative error on two images) of a shape. Raises ArithmeticError
    for a wrong result.
    """
    rng = np.random.default_rng(0)
    small, large = _operands(shape, 2, rng), _operands(shape, batch, rng)
    exact = _exact(shape, *small)
    for kernel, mode in kernels_of(shape):
        results, calls = _results(mode, shape, *small), _calls(mode, shape, *large)
        for name in shape.passes:
            error = float(np.abs(results[name] - exact[name]).max() / np.abs(exact[name]).max())
            if not error < TOLERANCE:
                raise ArithmeticError(f"{shape.label}, {name} by {kernel}: relative error {error:.1e}")
            yield name, kernel, calls[name], error


def _operands(shape, images, rng):
    """x, dy and w as NCHW."""
    shapes = ((images, shape.inputs, shape.height, shape.height), (images, shape.outputs, shape.out, shape.out),
              (shape.outputs, shape.inputs, shape.kernel, shape.kernel))  # fmt: skip
    return [rng.standard_normal(s, dtype=np.float32) for s in shapes]


def _exact(shape, *operands):
    x, dy, w = (a.astype(np.float64) for a in operands)
    dw, size, stride_pad = np.zeros(w.shape), x.shape[2:], (shape.stride, shape.pad)
    naive.conv_backward_weights(x, dy, dw, None, *stride_pad)
    data = naive.conv_backward_data(dy, w, size, *stride_pad) if "data" in shape.passes else None
    return {"forward": naive.conv_forward(x, w, None, *stride_pad), "data": data, "weights": dw}


def _results(mode, shape, *operands):
    """{pass: result of the call}, as NCHW."""
    unpack = {"forward": lambda y: fast.unpack(y, shape.outputs), "data": lambda x: fast.unpack(x, shape.inputs),
              "weights": lambda w: fast.unpack_weights(w, operands[2].shape)}  # fmt: skip
    return {name: unpack[name](call()) for name, call in _calls(mode, shape, *operands).items()}


def _calls(mode, shape, x, dy, w):
    """{pass: call}. Each call writes to an array of its own and returns it."""
    x, dy, w = fast.pack(x), fast.pack(dy), fast.pack_weights(w)
    y, dx, dw = np.empty_like(dy), np.empty_like(x), np.zeros_like(w)
    size, stride_pad, ops = (shape.height, shape.height), (shape.stride, shape.pad), fast.with_winograd(mode)

    def weights():
        ops.conv_backward_weights(x, dy, dw, None, *stride_pad)
        return dw

    calls = {"forward": lambda: ops.conv_forward(x, w, None, *stride_pad, out=y),
             "data": lambda: ops.conv_backward_data(dy, w, size, *stride_pad, out=dx), "weights": weights}  # fmt: skip
    return {name: calls[name] for name in shape.passes}
