"""What a training step asks of a sum of gradients: the interface of `PlainSum`, `TreeSum` and `CompressedSum`."""

from typing import Protocol

import numpy as np


class GradientSum(Protocol):
    """Adds up the gradients of all workers on all ranks. The methods stand in the order in which a step calls them.

    sums  the flat array that holds this rank's sums, and then those of all ranks
    """

    sums: np.ndarray

    def begin_step(self):
        """Nothing is added up yet."""

    def begin_worker(self):
        """The next backward passes are another worker's."""

    def round_loss(self, loss: float) -> float:
        """A batch's loss, as it is added up over workers and ranks."""

    def add(self, worker: int, part: slice):
        """Add a part of the gradients of `worker`, which are final there."""

    def wire_bytes(self, part: slice) -> int:
        """Bytes of a part as it is sent."""

    def total(self, part: slice):
        """sums[part] = its sum over all ranks, the same bits on all. Runs on a thread of the reducer."""

    def deliver(self, part: slice):
        """gradients[part] = what `total` has computed."""

    def forget(self):
        """A checkpoint was saved or loaded: keep nothing that is not in it."""
