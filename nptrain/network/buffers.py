"""The memory of a network's activations and their gradients."""

from math import prod

import numpy as np

from kernels.scratch import aligned
from nptrain.network.slots import inference_slots, training_slots


class Buffers:
    """The memory of slots, allocated when it is first needed, once for a batch and size of images.

    ops           the kernels; plain ones make new arrays, and have no buffers
    architecture  of the network
    dtype         of its weights
    """

    def __init__(self, ops, architecture, dtype=np.float32):
        self.dtype = ops.activation_dtype(dtype)
        self.ops, self.architecture, self.held, self._reserved, self._sizes = ops, architecture, {}, None, {}

    def reserve(self, n, height, width):
        """Room for n images of this size, before a step. What is large enough already stays."""
        if not self.ops.IN_PLACE or self._reserved == (n, height, width):
            return
        self._reserved = n, height, width
        slots = inference_slots(height, width, self.architecture) | training_slots(height, width, self.architecture)
        self._sizes = {name: prod(self.ops.activation_shape(n, *size)) for name, size in slots.items()}

    def get(self, name, shape):
        """The array of a slot with this shape; None with plain kernels. Raises ValueError if the slot is smaller."""
        if not self.ops.IN_PLACE:
            return None
        size, room = prod(shape), self._sizes[name]
        if size > room:
            raise ValueError(f"buffer {name}: {shape} needs {size} numbers, the table has {room}")
        if name not in self.held or self.held[name].size < room:
            self.held[name] = aligned(room, self.dtype)
        return self.held[name][:size].reshape(shape)
