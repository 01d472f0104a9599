"""The data-parallel training step: with communication, as in the trainer, and without."""

import socket
import statistics
import time
from contextlib import ExitStack
from copy import copy

from kernels import fast
from nptrain.bench.against import Rival
from nptrain.bench.step import WARM_UP, Work, compared
from nptrain.bench.timing import conditions, memory_mb, samples
from nptrain.reduction.plain_sum import PlainSum
from nptrain.step import BUCKET_BYTES, Reduction
from nptrain.world import Solo

SENDS_NOTHING = "nothing sent"


class ParallelWork(Work):
    """A training step of one worker per rank, on random pixels. All ranks call it together. Gradients are sent with
    `value_bytes` each, 4 or 8 (None: as in the trainer).
    """

    def __init__(self, world, reducer, batch, crop_size, value_bytes=None, ops=fast):
        super().__init__(True, batch, crop_size, world.size, ops)
        self.world, self.reducer = world, reducer
        terms = {None: world.size, 4: 1, 8: 3}[value_bytes]
        self.sums = PlainSum(world, self.ops, self.network.arena.gradients, terms)
        self.local_sums = copy(self.sums)
        self.local_sums.world = Solo()

    @property
    def values(self):
        """The flat array that is summed over ranks."""
        return self.sums.sums

    def __call__(self, bucket_bytes, send=True):
        """Run the step once, after a barrier; without `send`, nothing is sent to other ranks. Returns (seconds, seconds
        of them waiting for gradients) of every rank.
        """
        world, sums = (self.world, self.sums) if send else (self.local_sums.world, self.local_sums)
        reduction = Reduction(world, [self.world.rank], sums, self.reducer, bucket_bytes)
        self.world.barrier()
        start = time.perf_counter()
        step = self.step(reduction)
        took = time.perf_counter() - start
        return self.world.allgather((took, step.times["gradient_wait_s"]))


def measure(world, ready, batch, crop_size, repeats, modes=(), precision="float32"):
    """images/s of all ranks with `batch` images each, and of the same step without sending, in turn: medians of the
    slowest rank's times. `rank_images_per_s` is the speed of one rank while all compute and nothing is sent, the mean
    of the ranks.

    ready  Prepared: the kernels, this rank's cores, and the initializers of its threads
    modes  of PyTorch's DistributedDataParallel (gloo): a table `against`, a process per rank on the same cores
    """
    bucket_bytes, cores = BUCKET_BYTES, ready.cores.cores
    with ExitStack() as stack:
        rivals = {}
        for mode in modes:
            rival = Rival(mode, True, batch, crop_size, precision, group(world), cores)
            rivals[f"torch {mode}"] = stack.enter_context(rival)
        work = ParallelWork(
            world,
            stack.enter_context(world.reducer(initializers=ready.comm_initializers)),
            batch,
            crop_size,
            ops=ready.ops,
        )
        sides = {"nptrain": lambda: work(bucket_bytes), SENDS_NOTHING: lambda: work(bucket_bytes, send=False),
                 **{name: on_all_ranks(world, rival) for name, rival in rivals.items()}}  # fmt: skip
        results = samples(sides, repeats, WARM_UP)
        memory = {name: rival.memory_mb for name, rival in rivals.items()}
    took = {name: statistics.median(map(slowest, times)) for name, times in results.items()}
    alone = statistics.median(statistics.mean(seconds for seconds, _ in ranks) for ranks in results[SENDS_NOTHING])
    images = batch * world.size
    rows = [{"step": step, "ms": took[name] * 1e3, "images_per_s": images / took[name]}
            for step, name in (("gradients exchanged", "nptrain"), (SENDS_NOTHING, SENDS_NOTHING))]  # fmt: skip
    result = {"rows": rows}
    if rivals:
        medians = {name: seconds for name, seconds in took.items() if name != SENDS_NOTHING}
        result["against"] = compared(medians, images, {"nptrain": memory_mb(), **memory})
    return {**result, "ranks": world.size, **conditions(batch, crop_size, repeats, precision),
            "value_bytes": work.values.itemsize, "bucket_mib": bucket_bytes / 2**20,
            "efficiency": took[SENDS_NOTHING] / took["nptrain"], "rank_images_per_s": batch / alone,
            "memory_mb": memory_mb()}  # fmt: skip


def slowest(results):
    """The seconds of the slowest rank, from a result of `ParallelWork`."""
    return max(seconds for seconds, _ in results)


def on_all_ranks(world, call):
    """A function that runs `call`, which returns seconds, after a barrier. It returns what a ParallelWork does."""

    def run():
        world.barrier()
        return world.allgather((call(), None))

    return run


def group(world):
    """Environment variables by which PyTorch's processes, one per rank, find each other. All ranks call it."""
    address = "127.0.0.1" if world.local_size == world.size else world.host
    with socket.socket() as free:
        free.bind(("", 0))
        address, port = world.bcast((address, free.getsockname()[1]))
    return {"RANK": world.rank, "WORLD_SIZE": world.size, "MASTER_ADDR": address, "MASTER_PORT": port}
