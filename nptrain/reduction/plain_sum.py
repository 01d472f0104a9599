"""Gradients of all workers on all ranks, added up as they come."""

import numpy as np


def sum_dtype(terms, dtype=np.float32):
    """The dtype in which so many gradients are added up.

    A sum of three float32 depends on their order, which is that of the ranks, and training amplifies the difference a
    hundredfold in every iteration: in float64 the order is lost when the sum is rounded to float32.
    """
    return np.dtype(dtype) if terms <= 2 else np.dtype(np.float64)


def sum_buffer(gradients, terms):
    """Where so many `terms` like the flat array `gradients` are added up: there, or in a float64 array of its own."""
    dtype = sum_dtype(terms, gradients.dtype)
    return gradients if dtype == gradients.dtype else np.zeros(gradients.size, dtype)


class PlainSum:
    """A `gradient_sum.GradientSum` by the ranks' allreduce.

    world      `nptrain.world.World`
    ops        the kernels, `fast` or `naive`
    gradients  the flat array to which a backward pass adds, with the batch statistics behind the gradients
    terms      how many batches are added up: of all workers, and all passes of an iteration
    sums       the flat array in which this rank's sums are, and then those of all ranks
    """

    def __init__(self, world, ops, gradients, terms):
        self.world, self.ops, self.gradients = world, ops, gradients
        self.sums = sum_buffer(gradients, terms)
        self.apart = self.sums is not gradients

    def begin_step(self):
        """Nothing is added up yet."""
        self.sums[:] = 0

    def begin_worker(self):
        """The next backward passes are another worker's."""
        if self.apart:
            self.gradients[:] = 0

    def add(self, worker, part):
        """Take in a part (a slice) of the gradients of `worker`, which are final there."""
        if self.apart:
            self.ops.add_into(self.sums[part], self.gradients[part])

    def round_loss(self, loss):
        """A batch's loss, as it is to be added up over workers and ranks."""
        return loss

    def total(self, part):
        """sums[part] = its sum over all ranks, the same bits on all. On the thread that communicates."""
        self.world.allreduce(self.sums[part])

    def deliver(self, part):
        """gradients[part] = what `total` has computed."""
        if self.apart:
            self.gradients[part] = self.sums[part]

    def forget(self):
        """A checkpoint was saved or loaded: keep nothing that is not in it."""

    def wire_bytes(self, part):
        """Bytes of a part as it travels."""
        return (part.stop - part.start) * self.sums.itemsize
