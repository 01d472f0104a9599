"""One training step, from batches of images to new weights.

1. Each logical worker of this rank runs forward and backward on its batches; `Reduction.sums` adds up their gradients.
2. During the backward pass of the last worker, the gradients are sent in buckets, each as soon as it is final.
3. The loss is sent before them. All ranks' loss decides whether training continues, and the learning rate.
4. When all sums have arrived and are finite, weights and running statistics are updated.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nptrain.errors import TrainingError
from nptrain.recipes.schedule import Progress, advance
from nptrain.reduction.buckets import Buckets, StepTimer
from nptrain.reduction.compressed_sum import CompressedSum
from nptrain.reduction.gradient_sum import GradientSum
from nptrain.reduction.plain_sum import PlainSum
from nptrain.reduction.tree_sum import TreeSum
from nptrain.update import update
from nptrain.world import ImmediateReducer, Reducer, Solo, World

BUCKET_BYTES = 16 << 20


def worker_range(workers, rank, size):
    """The logical workers of one of `size` ranks: a contiguous range. Their numbers differ by one at most. The last
    ranks have none if there are more ranks than workers.
    """
    size = min(size, workers)
    return range(*(min(workers, workers * r // size) for r in (rank, rank + 1)))


@dataclass
class Reduction:
    """How the gradients of all workers are summed over all ranks.

    workers       the workers of this rank
    sums          `PlainSum`, `TreeSum` or `CompressedSum`, for this phase
    bucket_bytes  size at which a bucket of gradients is sent
    """

    world: World
    workers: range
    sums: GradientSum
    reducer: Reducer
    bucket_bytes: int = BUCKET_BYTES

    @classmethod
    def of(cls, network, recipe, phase, world=None, reducer=None, bucket_bytes=BUCKET_BYTES, reproducible=False,
           compress=False):  # fmt: skip
        """The Reduction for a phase of a recipe on the ranks of `world` (None: on this process alone).

        reproducible  sum over workers in an order that does not depend on the number of ranks
        compress      send gradients as bf16; not together with `reproducible`
        """
        world, arena = world or Solo(), network.arena
        ranges = [worker_range(recipe.workers, rank, world.size) for rank in range(world.size)]
        terms = recipe.workers * phase.iter_size
        if reproducible:
            sums = TreeSum(world, arena.gradients, recipe.workers, ranges)
        elif compress and world.size > 1:
            sums = CompressedSum(world, network.ops, arena.gradients, terms, arena.size)
        else:
            sums = PlainSum(world, network.ops, arena.gradients, terms)
        return cls(world, ranges[world.rank], sums, reducer or ImmediateReducer(), bucket_bytes)


class Told(NamedTuple):
    """What a rank tells the others with its loss; they add it up.

    data_wait_s  seconds that it has waited for images since it was asked last
    stop         whether it wants the run to end after this step
    bad_records  that it has replaced, and not named yet
    """

    data_wait_s: float = 0.0
    stop: bool = False
    bad_records: int = 0


@dataclass(frozen=True)
class Step:
    """The result of a step.

    loss          the mean over all workers
    progress      the phase's Progress with this loss
    data_wait_s   seconds that a rank waited for images, the mean of all ranks
    images_per_s  of all ranks together
    times         where this rank's time went (`StepTimer.result`)
    stop          whether any rank wants the run to end after this step, the same on all ranks
    bad_records   of all ranks, which they have not named yet
    """

    loss: float
    progress: Progress
    data_wait_s: float
    images_per_s: float
    times: dict
    stop: bool
    bad_records: int


def train_step(network, recipe, phase, iteration, batches, reduction=None, progress=None, told=Told,
               before_update=lambda: None):  # fmt: skip
    """One update of the network's weights. Returns a Step.

    iteration      of the phase, from 0
    batches        iterator over a `data.loader.Batch` for each worker of this rank and each pass of `phase.iter_size`
    reduction      a Reduction for this recipe and phase; None: this process has all workers
    progress       the phase's Progress before the step; None at its first iteration
    told           called once, for the Told of this rank
    before_update  called when all is summed, before anything is updated

    Raises TrainingError, before anything is updated, on a loss or a gradient that is not finite.
    """
    reduction = reduction or Reduction.of(network, recipe, phase)
    world, count = reduction.world, recipe.workers * phase.iter_size
    timer, buckets = StepTimer(), Buckets(reduction.sums, reduction.reducer, reduction.bucket_bytes)

    def send_loss(loss):
        values = [loss, *told()]
        return buckets.start(8 * len(values), world.allreduce_scalars, values)

    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is reported below
        pending = _accumulate(network, recipe, phase, batches, reduction, buckets, timer, send_loss)
    loss, *sums = pending.result()
    loss /= count
    if not math.isfinite(loss):
        buckets.wait()
        raise TrainingError(f"phase {phase.name}, iteration {iteration}: the loss is {loss}")
    progress = advance(progress or Progress(), phase, iteration, loss)
    summed = list(buckets.wait_into_gradients())
    before_update()
    update(network.arena, phase, iteration, count, summed, progress.current_step)
    network.arena.blend_statistics(recipe.moving_average_fraction, phase.iter_size, recipe.workers)
    timer.mark("update")
    waited, stop, bad = Told(*sums)
    speed = recipe.images_of(phase) / timer.total_s
    return Step(loss, progress, waited / world.size, speed, timer.result(buckets), stop > 0, int(bad))


def _accumulate(network, recipe, phase, batches, reduction, buckets, timer, send_loss):
    """Add up the gradients and batch statistics of this rank's workers, and send them as they become final. Returns
    send_loss(the sum of their losses), called before the last backward pass, so that the loss is sent first.
    """
    arena, sums, workers = network.arena, reduction.sums, reduction.workers
    whole = slice(0, arena.gradients.size)
    total_loss, pending = 0.0, None
    sums.begin_step()
    for worker in workers:
        sums.begin_worker()
        for turn in range(phase.iter_size):
            if turn:
                arena.begin_next_pass(recipe.moving_average_fraction)
            batch = next(batches)
            timer.mark("data")
            x = network.pack_images(batch.images, recipe.mean_bgr, recipe.scale)
            loss, _ = network.forward(x, batch.labels)
            total_loss += sums.round_loss(loss)
            timer.mark("forward")
            last_pass = turn + 1 == phase.iter_size
            if last_pass and worker == workers[-1]:
                pending = send_loss(total_loss)
                network.backward(on_grad_ready=lambda offset, worker=worker: buckets.mark_ready(offset, worker))
            else:
                network.backward()
                if last_pass:
                    sums.add(worker, whole)
            timer.mark("backward")
    if not workers:
        pending = send_loss(total_loss)
        for offset in network.offsets():
            buckets.mark_ready(offset)
    return pending
