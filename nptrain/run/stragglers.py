"""Ranks that are slower than the others for long: each is named once, with where its time goes."""

import os
from statistics import median_low

ITERATIONS = 20  # that are compared at once
SLOW = 1.5  # times the median
PARTS = {"images": ("data_s",), "forward and backward": ("forward_s", "backward_s"), "update": ("update_s",),
         "log": ("log_s",)}  # fmt: skip
LEAST_S = 0.01  # a worker's time, below which differences mean nothing


class Stragglers:
    """Compares what ranks need for one of their workers, without waiting for each other. All ranks call `after` after
    each iteration, when nothing is being summed.

    workers  of this rank
    named    those that have been named in this run, by host and process: their numbers change when ranks die
    """

    def __init__(self, world, workers, named):
        self._world, self._workers, self._named = world, workers, named
        self._sums, self._count = dict.fromkeys(PARTS, 0.0), 0

    def after(self, iteration, times):
        """Add the times of an iteration: those of `Step.times`, and log_s, which this rank has needed for its log since
        the iteration before. Returns for each rank that has been slow for ITERATIONS what `line` makes a line of, the
        same on all ranks: its rank, host and the first and last iteration; seconds for one of its workers, the median
        of all ranks, and of its seconds those for each of PARTS.
        """
        for name, fields in PARTS.items():
            self._sums[name] += sum(times.get(field, 0.0) for field in fields)
        self._count += 1
        if self._count < ITERATIONS or self._world.size == 1:
            return []
        share = max(1, self._workers) * self._count
        mine = {name: seconds / share for name, seconds in self._sums.items()} if self._workers else None
        self._sums, self._count = dict.fromkeys(PARTS, 0.0), 0
        found = self._world.allgather(mine and (self._world.host, os.getpid(), mine))
        needed = {rank: sum(each[-1].values()) for rank, each in enumerate(found) if each}
        usual, slow = median_low(needed.values()), []
        for rank, seconds in needed.items():
            host, process, parts = found[rank]
            if seconds > max(SLOW * usual, LEAST_S) and (host, process) not in self._named:
                self._named.add((host, process))
                slow.append({"rank": rank, "host": host, "iterations": [iteration + 1 - ITERATIONS, iteration],
                             "worker_s": seconds, "median_s": usual, "parts_s": parts})  # fmt: skip
        return slow


def line(slow):
    """A line of the log for an entry that `Stragglers.after` has returned."""
    spent = ", ".join(f"{name} {part:.3f} s" for name, part in slow["parts_s"].items())
    first, last = slow["iterations"]
    return (f"rank {slow['rank']} on {slow['host']} is slow: {slow['worker_s']:.3f} s for each of its workers in "
            f"iterations {first} to {last}, the median of all ranks is {slow['median_s']:.3f} s: {spent}")  # fmt: skip
