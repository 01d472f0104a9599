"""Which cores a rank may use, and so how many threads it runs."""

import os
from pathlib import Path


def threads_for(world):
    """Threads for this rank: the cores that it may use, divided by the ranks that may use the same ones.

    A launcher may have bound each rank to cores of its own, or all ranks of a host to the same set.
    """
    mine = tuple(sorted(os.sched_getaffinity(0)))
    sharing = sum(host == world.host and cores == mine for host, cores in world.gather((world.host, mine)))
    return max(1, min(len(mine), _quota()) // sharing)


def _quota():
    """The cores' worth of time that the control group grants, rounded down; many, if it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return 1 << 20
