"""The cores of this rank: which it may use, and pinning its threads to them."""

import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from mpi.cores import CoreRequest, split

SYSTEM = Path("/sys/devices/system")


def claim(world, threads=None, comm_threads=None):
    """Divide the cores of each host among its ranks. Returns this rank's `mpi.cores.CoreAssignment`. All ranks call it.

    threads       threads that compute (None: as many as `mpi.cores.CoreRequest` says)
    comm_threads  threads that communicate (None: the same)

    A rank gets only cores that the launcher granted it: some launchers bind each rank to cores of its own, some bind
    all ranks of a host to the same set. Rank 0 prints a line if the launcher leaves cores of its host idle.
    """
    allowed = frozenset(os.sched_getaffinity(0))
    machine = _machine() or world.host
    ranks = world.allgather((world.host, machine, allowed, threads, comm_threads, _slurm_limit()))
    neighbours = [entry for entry in ranks if entry[1] == machine]
    if world.rank == 0:
        _warn_of_idle_cores(len(frozenset().union(*(entry[2] for entry in neighbours))), world)
    granted_time, requests = quota(), []
    for host, _, granted, asked, asked_comm, limit in neighbours:
        if granted_time is not None:  # of this rank's host; the limits of other hosts' ranks do not change its cores
            limit = min(limit or granted_time, granted_time / sum(entry[0] == host for entry in neighbours))
        requests.append(CoreRequest(granted, limit, asked, asked_comm, alone=world.size == 1))
    place = sum(entry[1] == machine for entry in ranks[: world.rank])
    return split(requests, *topology())[place]


def topology(system=SYSTEM):
    """({core: NUMA node}, {core: name of its physical core}) of this machine; empty where it does not report them."""
    node_of, physical_of = {}, {}
    for node in system.glob("node/node[0-9]*"):
        for cpu in node.glob("cpu[0-9]*"):
            node_of[int(cpu.name[3:])] = int(node.name[4:])
    for cpu in system.glob("cpu/cpu[0-9]*"):
        try:
            name = [(cpu / "topology" / part).read_text().strip() for part in ("physical_package_id", "core_id")]
            die = cpu / "topology" / "die_id"  # core ids may start again on each die
            physical_of[int(cpu.name[3:])] = (*name, die.read_text().strip() if die.exists() else "")
        except OSError:  # a core that is switched off
            continue
    return node_of, physical_of


def tasks():
    """The ids of this process's threads."""
    return {int(name) for name in os.listdir("/proc/self/task")}


@contextmanager
def started(threads):
    """Append to the list `threads` the ids of the threads that the block starts and that still run at its end."""
    before = tasks()
    yield
    threads.extend(sorted(tasks() - before))


def pin(assignment, pool, main_computes=True):
    """Pin the threads that compute, this one and those of `pool` (thread ids), to the cores of `assignment`.

    With a thread for each core, every thread gets a core. With fewer threads, each may run on all cores of the rank, so
    that Linux can avoid busy ones. Where cores are crowded nothing is pinned, and Linux balances the load.

    main_computes  whether this thread computes, too; else it only waits for the pool

    Threads that this one starts later inherit its core: they have to call `release`. Raises OSError where pinning is
    not permitted.
    """
    if assignment.crowded:
        return
    main_cores, cores = assignment.others, assignment.compute
    if assignment.full and main_computes:
        main_cores, cores = assignment.compute[:1], assignment.compute[1:]
    os.sched_setaffinity(0, main_cores)
    for place, task in enumerate(pool):  # a pool may have more threads than compute: those only sleep
        os.sched_setaffinity(task, [cores[place]] if assignment.full and place < len(cores) else assignment.others)


def release(assignment):
    """Let the calling thread, which does not compute, run on all cores of the rank but those for communication."""
    _move(assignment, assignment.others)


def to_communication(assignment):
    """Move the calling thread to the cores for communication; without such cores, do as `release`. Does nothing where
    the rank's threads are not pinned.
    """
    if assignment.pinned:
        _move(assignment, assignment.communication or assignment.others)


def _move(assignment, cores):
    if not assignment.crowded:
        with suppress(OSError):  # not permitted, as the caller of `pin` has reported
            os.sched_setaffinity(0, cores)


def _machine():
    """An id of the running Linux kernel: containers on one machine share it, and the machine's cores."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _slurm_limit():
    """The cores that Slurm gave each task, or None without Slurm. Not every cluster enforces them."""
    count = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(count) if count.isdigit() and int(count) else None


def _warn_of_idle_cores(used, world):
    """Print a line if the launcher, this rank's parent process, may use more cores than the ranks it started here."""
    if world.library == "none":
        return
    try:
        granted = len(os.sched_getaffinity(os.getppid()))
    except OSError:
        return
    if used < granted:
        print(f"{world.host}: the launcher bound its ranks to {used} of {granted} cores; to use all of them, turn"
              " binding off (--bind-to none; Intel MPI: I_MPI_PIN=off)", file=sys.stderr, flush=True)  # fmt: skip


def quota():
    """The CPU time that the control group (version 2, or 1) grants, in cores; None if it sets no limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    return None if limit.strip() in ("max", "-1") else int(limit) / int(period)
