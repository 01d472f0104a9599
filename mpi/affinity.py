"""Which cores a rank may use, and so how many threads it runs."""

import os
import sys
from pathlib import Path


def threads_for(world):
    """Threads for this rank: the cores that it may use, divided by the ranks that may use the same ones.

    A launcher may have bound each rank to cores of its own, or all ranks of a host to the same set; what it
    granted is kept to. Says so, once, where it left cores idle: some launchers bind a rank to one core.
    """
    mine = frozenset(os.sched_getaffinity(0))
    sets = [cores for host, cores in world.gather((world.host, mine)) if host == world.host]
    if world.rank == 0:
        _warn_of_idle_cores(len(frozenset().union(*sets)), world)
    return threads_of(mine, sets, _quota())


def threads_of(mine, sets, quota):
    """Threads of a rank bound to the cores `mine`, on a host whose ranks (it too) are bound to `sets` and together
    may use the time of `quota` cores (None: no limit).
    """
    threads = len(mine) // sets.count(mine)
    return max(1, threads if quota is None else min(threads, int(quota / len(sets))))


def _warn_of_idle_cores(used, world):
    """The launcher, our parent, is not bound itself: what it may use and its ranks may not, lies idle."""
    if world.library == "none":
        return
    try:
        granted = len(os.sched_getaffinity(os.getppid()))
    except OSError:
        return
    if used < granted:
        print(f"{world.host}: the launcher bound its ranks to {used} of {granted} cores; to use all of them,"
              " tell it not to (Open MPI: --bind-to none)", file=sys.stderr, flush=True)  # fmt: skip


def _quota():
    """The cores' worth of time that the control group (version 2, or 1) grants; None if it sets no limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    return None if limit.strip() in ("max", "-1") else int(limit) / int(period)
