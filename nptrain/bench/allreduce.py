"""Sums of the gradients over ranks, by bucket size: how long they take alone, and how much of them a step hides."""

import statistics
from functools import partial

import numpy as np

from kernels import fast
from nptrain.bench.parallel import ParallelWork, slowest
from nptrain.bench.timing import conditions, samples, timed
from nptrain.reduction.buckets import Buckets

MIB = 1 << 20
SMALL = 100  # sums of a single value


def measure(world, batch, crop_size, repeats, sizes, value_bytes=None, initializers=(), ops=fast,
            precision="float32"):  # fmt: skip
    """Sums ResNet-50's gradients, in backward order, in buckets of at least `sizes` MiB (inf: one bucket); gradients of
    a residual block are not split; `precision` is that of `ops`. All ranks call it. Times are medians of the slowest
    rank's.

    sums   without overlap: ms of a bucket and of all; GB/s (bytes divided by time); bus GB/s (what every link carries:
           2 (n - 1) / n times as much for n ranks)
    steps  with overlap: ms of a whole step; ms more than the same step without sending (`alone_ms`); ms that a rank
           waited for gradients, the mean of the ranks; the share of the time of all sums that is hidden

    `best_bucket_mib` has the shortest step; among steps within `noise_ms` of it (the median deviation of its times),
    that which waits least for gradients. `one_value_ms` is the latency: the time of the sum of a single value.
    """
    with world.reducer(initializers=initializers) as reducer:
        work = ParallelWork(world, reducer, batch, crop_size, value_bytes, ops)
        nbytes = work.values.nbytes
        buckets = {f"{size:g}" if size < np.inf else "all": int(min(size * MIB, nbytes)) for size in sizes}
        work.values[:] = 0
        one_value = samples({"": timed(lambda: world.allreduce(work.values[:1]))}, SMALL, SMALL // 10)[""]
        alone = samples({label: partial(summed, work, size) for label, size in buckets.items()}, repeats)
        sides = {label: partial(work, size) for label, size in buckets.items()}
        steps = samples({"": lambda: work(nbytes, send=False), **sides}, repeats)
    computed = statistics.median(map(slowest, steps.pop("")))
    result = {"sums": [sums_row(label, results, nbytes, world.size) for label, results in alone.items()]}
    result["steps"] = [steps_row(label, steps[label], computed, row["sum_ms"] / 1e3, world.size)
                       for label, row in zip(steps, result["sums"], strict=True)]  # fmt: skip
    result |= {"ranks": world.size, **conditions(batch, crop_size, repeats, precision), "gradients_mb": nbytes / 1e6,
              "value_bytes": work.values.itemsize, "alone_ms": computed * 1e3}  # fmt: skip
    if world.size == 1:
        return {**result, "sent": "nothing: there is one rank"}
    return {**result, "one_value_ms": statistics.median(one_value) * 1e3, **best(result["steps"], steps)}


def summed(work, bucket_bytes):
    """Sum the gradients without computing. Returns (seconds of each bucket, seconds of the slowest rank for all)."""
    work.world.barrier()
    buckets = Buckets(work.sums, work.reducer, bucket_bytes)
    for offset in work.network.offsets():
        buckets.mark_ready(offset)
    for pending in buckets.pending:
        pending.result()
    whole = buckets.pending[-1].ended_at - buckets.pending[0].started_at
    return [pending.ended_at - pending.started_at for pending in buckets.pending], max(work.world.allgather(whole))


def sums_row(label, results, nbytes, ranks):
    """A row of `sums`, from the results of `summed`."""
    bucket_times = [seconds for buckets, _ in results for seconds in buckets]
    whole = statistics.median(seconds for _, seconds in results)
    speed = nbytes / whole / 1e9 if ranks > 1 else None
    bus = speed and speed * 2 * (ranks - 1) / ranks
    return {"bucket_mib": label, "buckets": len(results[0][0]), "bucket_ms": statistics.median(bucket_times) * 1e3,
            "sum_ms": whole * 1e3, "gb_per_s": speed, "bus_gb_per_s": bus}  # fmt: skip


def steps_row(label, results, computed, whole, size):
    """A row of `steps`, from their results. `computed`: s of a step without sending; `whole`: s of all sums alone."""
    took = statistics.median(map(slowest, results))
    waited = statistics.median(statistics.mean(seconds for _, seconds in ranks) for ranks in results)
    exposed = max(0.0, took - computed)
    return {"bucket_mib": label, "step_ms": took * 1e3, "exposed_ms": exposed * 1e3,
            "waited_ms": waited * 1e3,
            "hidden": max(0.0, 1 - exposed / whole) if size > 1 else None}  # fmt: skip


def best(rows, results):
    """The best bucket size by the rule of `measure`, and the noise."""
    fastest = min(rows, key=lambda row: row["step_ms"])
    times = map(slowest, results[fastest["bucket_mib"]])
    noise = statistics.median(abs(seconds * 1e3 - fastest["step_ms"]) for seconds in times)
    ties = [row for row in rows if row["step_ms"] <= fastest["step_ms"] + noise]
    chosen = min(ties, key=lambda row: row["waited_ms"])
    return {"noise_ms": noise, "best_bucket_mib": chosen["bucket_mib"]}
