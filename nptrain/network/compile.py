"""Compiling every kernel before the first step, or loading them from the cache on disk."""

import time

import numpy as np
from numba.core import event

from kernels import fast
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet


class _Announcement(event.Listener):
    """Says so when the first kernel is compiled, and how long all took."""

    def __init__(self, say):
        self.say, self.begin = say, None

    def on_start(self, event):
        if self.begin is None:
            self.begin = time.perf_counter()
            self.say("compiling the kernels for this CPU, once (about a minute) ...")

    def on_end(self, event):
        pass

    def finish(self):
        if self.begin is not None:
            self.say(f"compiled in {time.perf_counter() - self.begin:.0f} s, and kept for the next time")


def compile_kernels(recipe, say=print):
    """Run a smallest step and an inference, so that every kernel is compiled, or loaded from the cache. `say` gets a
    line when there is something to compile, and another at the end.
    """
    announcement = _Announcement(say)
    with event.install_listener("numba:compile", announcement):
        network = ResNet.of(
            recipe, fast.configured("always", recipe.precision)
        )  # convolutions with a stride are direct
        x = network.pack_images(np.zeros((2, 3, 32, 32), np.uint8), recipe.mean_bgr, recipe.scale)
        network.forward(x, np.zeros(2, np.int64))
        network.backward()
        Inference(network)(x)
        flat = np.zeros(32, np.float32)
        fast.sgd_update(flat, flat.copy(), flat.copy(), 0.0, 0.0, 0.0)
        fast.squared_norm(flat)
        fast.add_into(flat.astype(np.float64), flat)
        bits = np.zeros(32, np.uint16)
        fast.bf16_split(flat, bits)
        for dtype in (np.float32, np.float64):
            fast.bf16_add_into(flat.astype(dtype), bits)
    announcement.finish()
