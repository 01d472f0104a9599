"""Which cores a rank may use, which threads it runs there, and keeping each thread on its own."""

import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from mpi.cores import CoreRequest, split

SYSTEM = Path("/sys/devices/system")


def claim(world, threads=None, comm_threads=None):
    """This rank's `mpi.cores.CoreAssignment` of the cores of its host, of which `threads` compute and `comm_threads`
    communicate (None: as many as fit). All ranks call it.

    A launcher may have bound each rank to cores of its own, or all ranks of a host to the same set; what it
    granted is kept to. Says so, once, where it left cores idle: some launchers bind a rank to one core.
    """
    allowed = frozenset(os.sched_getaffinity(0))
    machine = _machine() or world.host
    ranks = world.allgather((world.host, machine, allowed, threads, comm_threads, _slurm_limit()))
    neighbours = [entry for entry in ranks if entry[1] == machine]
    if world.rank == 0:
        _warn_of_idle_cores(len(frozenset().union(*(entry[2] for entry in neighbours))), world)
    quota, requests = _quota(), []
    for host, _, granted, asked, asked_comm, limit in neighbours:
        if quota is not None:  # of this rank's host: no matter for those of another on the same machine
            limit = min(limit or quota, quota / sum(entry[0] == host for entry in neighbours))
        requests.append(CoreRequest(granted, limit, asked, asked_comm, alone=world.size == 1))
    place = sum(entry[1] == machine for entry in ranks[: world.rank])
    return split(requests, *topology())[place]


def topology(system=SYSTEM):
    """({core: NUMA node}, {core: name of its physical core}) of this machine; empty where it does not tell."""
    node_of, physical_of = {}, {}
    for node in system.glob("node/node[0-9]*"):
        for cpu in node.glob("cpu[0-9]*"):
            node_of[int(cpu.name[3:])] = int(node.name[4:])
    for cpu in system.glob("cpu/cpu[0-9]*"):
        try:
            name = [(cpu / "topology" / part).read_text().strip() for part in ("physical_package_id", "core_id")]
            die = cpu / "topology" / "die_id"  # numbers of cores may begin anew on each
            physical_of[int(cpu.name[3:])] = (*name, die.read_text().strip() if die.exists() else "")
        except OSError:  # a core that is switched off
            continue
    return node_of, physical_of


def tasks():
    """The ids of this process's threads."""
    return {int(name) for name in os.listdir("/proc/self/task")}


@contextmanager
def started(threads):
    """Appends to the list `found` the ids of the threads that the process started in the block and that run on."""
    before = tasks()
    yield
    threads.extend(sorted(tasks() - before))


def pin(assignment, pool, main_computes=True):
    """Keep this thread and those of `pool` (ids), which compute together, to the cores of `assignment`: one thread a
    core where there is one for each; fewer threads than cores on all cores of the rank, so that the system can avoid
    what others use; and where cores are crowded nothing is pinned, so that it can even out.

    `main_computes`: this thread is one of them, and does not only wait. Threads that it starts later begin on its
    core: they call `release`. Raises OSError where the system does not let us.
    """
    if assignment.crowded:
        return
    main_cores, cores = assignment.others, assignment.compute
    if assignment.full and main_computes:
        main_cores, cores = assignment.compute[:1], assignment.compute[1:]
    os.sched_setaffinity(0, main_cores)
    for place, task in enumerate(pool):  # some pools have more threads than work: those sleep anywhere
        os.sched_setaffinity(task, [cores[place]] if assignment.full and place < len(cores) else assignment.others)


def release(assignment):
    """Let the calling thread run on every core of the rank that is not set apart: it is no computing one."""
    _move(assignment, assignment.others)


def to_communication(assignment):
    """Put the calling thread on the cores set apart for communication, if there are any, else as `release`; where
    the rank's threads are not pinned, nowhere.
    """
    if assignment.pinned:
        _move(assignment, assignment.communication or assignment.others)


def _move(assignment, cores):
    if not assignment.crowded:
        with suppress(OSError):  # not permitted: `pin` has been refused before, and that was said
            os.sched_setaffinity(0, cores)


def _machine():
    """A name for the kernel that runs this process: containers on one machine share it, and its cores."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _slurm_limit():
    """The cores that Slurm gave each task, which not every cluster makes it enforce; None without Slurm."""
    count = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(count) if count.isdigit() and int(count) else None


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
              " tell it not to (--bind-to none; Intel MPI: I_MPI_PIN=off)", file=sys.stderr, flush=True)  # fmt: skip


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
