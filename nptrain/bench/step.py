"""A whole training step or inference of ResNet-50: its speed, where its time goes, and a comparison with PyTorch."""

import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from kernels import cpu, fast
from nptrain.bench.against import Rival
from nptrain.bench.shapes import CLASSES, convolution_flops, inference_flops, step_flops
from nptrain.bench.timing import conditions, memory_mb, samples
from nptrain.data.loader import Batch
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.recipes.recipe import Phase, Recipe
from nptrain.step import train_step

FORWARD, DATA, WEIGHTS = "convolution forward", "convolution data gradient", "convolution weight gradient"
KINDS = {  # {beginning of a kernel's name: kind of operation}; the first that fits counts
    "conv_forward": FORWARD, "conv_inference": FORWARD, "conv_backward_data": DATA, "conv_backward_weights": WEIGHTS,
    "batchnorm_backward": "batch norm backward", "batchnorm": "batch norm forward",
    "maxpool": "pooling", "average": "pooling", "linear": "linear and loss", "softmax": "linear and loss",
    "sgd": "update", "pack_images": "input",
}  # fmt: skip
REST = "rest"
PHASE = Phase("bench", base_lr=1e-3, max_iter=1000, weight_decay=5e-5)
RECIPE = Recipe("bench", "random pixels", (PHASE,), classes=CLASSES)
WARM_UP = 2


def kind_of(name):
    """The kind of the kernel `name`, or None if it is not in the table."""
    return next((kind for start, kind in KINDS.items() if name.startswith(start)), None)


class Timed(SimpleNamespace):
    """The kernels `ops`, with their times added up in `spent`, {kind: (calls, seconds)}."""

    def __init__(self, ops):
        super().__init__(**{name: self._wrapped(name, getattr(ops, name)) for name in ops.__all__})
        self.spent = {}

    def _wrapped(self, name, kernel):
        kind = kind_of(name)
        if kind is None or not callable(kernel):
            return kernel

        def call(*args, **options):
            start = time.perf_counter()
            result = kernel(*args, **options)
            took = time.perf_counter() - start
            calls, seconds = self.spent.get(kind, (0, 0.0))
            self.spent[kind] = (calls + 1, seconds + took)
            return result

        return call


class Work:
    """A training step, or an inference, on random pixels. A call runs it once and returns (seconds, {kind: (calls,
    seconds)}). Raises TrainingError for a loss, ArithmeticError for a score that is not finite.
    """

    def __init__(self, training, batch, crop_size, workers=1, ops=fast):
        self.training, self.ops = training, Timed(ops)
        self.recipe = replace(RECIPE, crop_size=crop_size, batch_size=batch, workers=workers)
        self.network = ResNet.of(self.recipe, self.ops)
        self.network.arena.initialise(0)
        for norm in self.network.arena.norms.values():  # running statistics with which an inference stays finite
            norm.var[:], norm.factor[:] = 1, 1
        self.infer = None if training else Inference(self.network)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch, 3, crop_size, crop_size), dtype=np.uint8)
        self.batch = Batch(pixels, rng.integers(0, CLASSES, batch))

    def __call__(self):
        self.ops.spent = {}
        start = time.perf_counter()
        if self.training:
            self.step()
        else:
            x = self.network.pack_images(self.batch.images, self.recipe.mean_bgr, self.recipe.scale)
            scores = self.infer(x)
        took = time.perf_counter() - start
        if not self.training and not np.isfinite(scores).all():
            raise ArithmeticError("a score is not finite")
        return took, self.ops.spent

    def step(self, reduction=None):
        """The trainer's own step on the batch."""
        return train_step(self.network, self.recipe, PHASE, 0, iter([self.batch]), reduction)


def measure(training, batch, crop_size, repeats, modes=(), winograd="auto", precision="float32"):
    """images/s; GFLOP/s, counted for direct convolution; its share of the peak in the precision (the better of two
    measurements, before and after); the peak memory of the process; a table of the kinds of operation in the step of
    median time (of an even number, the faster of the two in the middle), which add up to it.

    `rest` is what no kernel in the table computes: setting gradients and images to zero, running statistics, Python.
    With `modes` of PyTorch, "eager" or "compile", a table `against` of its medians in the same precision, measured in
    turn with ours.
    """
    ops = fast.configured(winograd, precision)
    with ExitStack() as stack:
        rivals = {f"torch {mode}": stack.enter_context(Rival(mode, training, batch, crop_size, precision))
                  for mode in modes}  # fmt: skip
        peak = cpu.fma_peak(precision=precision)
        found = samples({"nptrain": Work(training, batch, crop_size, ops=ops), **rivals}, repeats, WARM_UP)
        memory = {name: rival.memory_mb for name, rival in rivals.items()}
    peak = max(peak, cpu.fma_peak(precision=precision))
    took, spent = sorted(found["nptrain"], key=lambda sample: sample[0])[(repeats - 1) // 2]
    flops = (step_flops if training else inference_flops)(crop_size) * batch
    result = {"rows": breakdown(took, spent, batch, crop_size, peak)}
    if rivals:
        medians = {"nptrain": took, **{name: statistics.median(found[name]) for name in rivals}}
        result["against"] = compared(medians, batch, {"nptrain": memory_mb(), **memory})
    return {**result, **conditions(batch, crop_size, repeats, precision), "ms": took * 1e3,
            "images_per_s": batch / took, "gflops": flops / took / 1e9, "of_peak": flops / took / 1e9 / peak,
            "peak_gflops": peak, "memory_mb": memory_mb()}  # fmt: skip


def breakdown(took, spent, batch, crop_size, peak):
    """A row for each kind of operation, in the order of KINDS, then the rest of `took` (s). `peak` is in GFLOP/s."""
    flops = dict(zip((FORWARD, DATA, WEIGHTS), convolution_flops(crop_size).values(), strict=True))
    spent = {kind: spent[kind] for kind in dict.fromkeys(KINDS.values()) if kind in spent}
    spent[REST] = (None, took - sum(seconds for _, seconds in spent.values()))
    rows = []
    for kind, (calls, seconds) in spent.items():
        speed = flops[kind] * batch / seconds / 1e9 if kind in flops else None
        rows.append({"kind": kind, "calls": calls, "ms": seconds * 1e3, "share": seconds / took,
                     "gflops": speed, "of_peak": speed and speed / peak})  # fmt: skip
    return rows


def compared(medians, batch, memory):
    """A row for each program. `ours_to_theirs` is the ratio of speeds: above 1, this project is faster."""
    ours = medians["nptrain"]
    return [{"program": name, "ms": took * 1e3, "images_per_s": batch / took, "memory_mb": memory[name],
             "ours_to_theirs": None if name == "nptrain" else took / ours}
            for name, took in medians.items()]  # fmt: skip
