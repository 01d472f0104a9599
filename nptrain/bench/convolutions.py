"""Every distinct convolution of ResNet-50, in every pass and with every kernel: its error, then its speed."""

import numpy as np

from kernels import cpu, fast, naive
from kernels.winograd_division import uses_winograd
from nptrain.bench.shapes import distinct_shapes
from nptrain.bench.timing import conditions, seconds
from nptrain.errors import InputError

TOLERANCES = {"float32": 1e-3, "bf16": 1e-2}  # relative to the largest value; usual errors: about 1e-6 and 3e-3


def kernels_of(shape):
    """Yields (name, mode of `fast.configured`) of the kernels that can compute this shape."""
    yield "direct", "never"
    if shape.kernel == 3 and shape.stride == 1:
        yield "winograd", "always"


def used_kernel(shape, batch, precision="float32"):
    """The kernel that the network uses for this shape at this batch."""
    stored = fast.weights_shape(shape.outputs, shape.inputs, shape.kernel, shape.kernel)
    result = fast.activation_shape(batch, shape.outputs, shape.out, shape.out)
    by_winograd = uses_winograd("auto", stored, result, shape.stride, shape.pad, precision == "bf16")
    return "winograd" if by_winograd else "direct"


def measure(batch, crop_size, repeats, only="", precision="float32"):
    """A row for each shape whose label contains `only`, each kernel and each pass: median ms, GFLOP/s, its share of the
    precision's peak measured just before, and the relative error against float64 on two images. Last, sums over all
    convolutions of the network, with the kernels that it uses.
    """
    rows, totals = [], {}
    for shape, uses in chosen(crop_size, only).items():
        peak = cpu.fma_peak(precision=precision)
        for name, kernel, call, error in passes(shape, batch, precision):
            took, flops = seconds(call, repeats), shape.flops * batch
            rows.append(_row(shape.label, uses, name, kernel, took, flops, flops / peak / 1e9, error))
            if kernel == used_kernel(shape, batch, precision):
                total = totals.setdefault(name, np.zeros(4))
                total += [uses, *(uses * value for value in (took, flops, flops / peak / 1e9))]
    for name, (uses, *values) in totals.items():
        rows.append(_row("sum", int(uses), name, "used", *values, None))
    return {"rows": rows, **conditions(batch, crop_size, repeats, precision),
            "peak_gflops": cpu.fma_peak(precision=precision)}  # fmt: skip


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


def passes(shape, batch, precision="float32"):
    """Yields (pass, kernel, call on `batch` images, relative error on two images) of a shape. In bf16, x and dy are so
    before, while weights become so in the kernel. Raises ArithmeticError for a wrong result.
    """
    rng = np.random.default_rng(0)
    small, large = _operands(shape, 2, rng, precision), _operands(shape, batch, rng, precision)
    exact = _exact(shape, *small)
    for kernel, mode in kernels_of(shape):
        ops = fast.configured(mode, precision)
        results, calls = _results(ops, shape, *small), _calls(ops, shape, *large)
        for name in shape.passes:
            error = float(np.abs(results[name] - exact[name]).max() / np.abs(exact[name]).max())
            if not error < TOLERANCES[precision]:
                raise ArithmeticError(f"{shape.label}, {name} by {kernel}: relative error {error:.1e}")
            yield name, kernel, calls[name], error


def _operands(shape, images, rng, precision):
    """x and dy as activations, w as NCHW."""
    sizes = ((images, shape.inputs, shape.height, shape.height), (images, shape.outputs, shape.out, shape.out))
    x, dy = (fast.pack(rng.standard_normal(s, dtype=np.float32), dtype=fast.STORED[precision]) for s in sizes)
    return x, dy, rng.standard_normal((shape.outputs, shape.inputs, shape.kernel, shape.kernel), dtype=np.float32)


def _exact(shape, x, dy, w):
    channels = (shape.inputs, shape.outputs)
    x, dy = (fast.unpack(a, c).astype(np.float64) for a, c in zip((x, dy), channels, strict=True))
    w, size, stride_pad = w.astype(np.float64), x.shape[2:], (shape.stride, shape.pad)
    dw = np.zeros(w.shape)
    naive.conv_backward_weights(x, dy, dw, None, *stride_pad)
    data = naive.conv_backward_data(dy, w, size, *stride_pad) if "data" in shape.passes else None
    return {"forward": naive.conv_forward(x, w, None, *stride_pad), "data": data, "weights": dw}


def _results(ops, shape, *operands):
    """{pass: result of the call}, as NCHW."""
    unpack = {"forward": lambda y: fast.unpack(y, shape.outputs), "data": lambda x: fast.unpack(x, shape.inputs),
              "weights": lambda w: fast.unpack_weights(w, operands[2].shape)}  # fmt: skip
    return {name: unpack[name](call()) for name, call in _calls(ops, shape, *operands).items()}


def _calls(ops, shape, x, dy, w):
    """{pass: call}. Each call writes to an array of its own and returns it."""
    w = fast.pack_weights(w)
    y, dx, dw = np.empty_like(dy), np.empty_like(x), np.zeros_like(w)
    size, stride_pad = (shape.height, shape.height), (shape.stride, shape.pad)

    def weights():
        ops.conv_backward_weights(x, dy, dw, None, *stride_pad)
        return dw

    calls = {"forward": lambda: ops.conv_forward(x, w, None, *stride_pad, out=y),
             "data": lambda: ops.conv_backward_data(dy, w, size, *stride_pad, out=dx), "weights": weights}  # fmt: skip
    return {name: calls[name] for name in shape.passes}
