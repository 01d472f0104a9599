"""What commands on ranks do alike before they begin: choose kernels and cores, compile, pin threads."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numba

from kernels import fast, naive
from kernels.cpu import set_threads
from mpi import affinity
from mpi.agree import raise_together
from mpi.cores import CoreAssignment
from nptrain.errors import InputError
from nptrain.network.compile import compile_kernels

MOST_THREADS = 4096  # more than any host has cores


class Prepared(NamedTuple):
    """Kernels that are ready, this rank's cores, and what its other threads call first, so that those that decode
    images and those that communicate run beside the ones that compute.
    """

    ops: ModuleType | SimpleNamespace
    cores: CoreAssignment
    decode_initializer: Callable | None = None
    comm_initializers: tuple[Callable, ...] = ()


def add_arguments(parser):
    """The flags that `kernels_and_cores` reads."""
    parser.add_argument("--threads", metavar="N", type=int, help="that compute, a rank (its share of the cores)")
    parser.add_argument("--no-pin", action="store_true", help="let threads wander over all cores granted")
    parser.add_argument(
        "--kernels", choices=["fast", "numpy"], default="fast", help="compiled, or the plain reference")  # fmt: skip
    add_winograd(parser)


def add_winograd(parser):
    """The switch of Winograd's convolutions, for `fast.with_winograd`."""
    parser.add_argument(
        "--winograd", choices=["auto", "never"], default="auto",
        help="3x3 convolutions by F(4x4, 3x3) where faster, a digit less exact, or all direct")  # fmt: skip


def use_threads(count):
    """Let kernels compute with `count` threads. Raises InputError where there cannot be so many."""
    try:
        set_threads(count)
    except ValueError as error:
        raise InputError(f"--threads: found {error}") from None


def kernels_and_cores(args, world, recipe, comm_threads=0):
    """What is Prepared. Compiled kernels are loaded, and their threads pinned: one rank of each host has compiled what
    its others load. All ranks call it. `comm_threads` of a rank communicate (None: as many as it has cores for). Raises
    AgreedError if there are not so many cores.
    """
    with raise_together(world, InputError):
        for flag, value, least in (("threads", args.threads, 1), ("comm-threads", comm_threads, 0)):
            if value is not None and not least <= value <= MOST_THREADS:
                raise InputError(f"--{flag}: found {value}, expected {least} to {MOST_THREADS}")
        if (comm_threads or 0) > 1 and world.thread_level != "multiple":
            raise InputError(f"--comm-threads: found {comm_threads}, expected at most 1: {world.library} lets "
                             f"threads talk to it one at a time (thread level {world.thread_level})")  # fmt: skip
    cores, pool = affinity.claim(world, args.threads, comm_threads), []
    with raise_together(world, InputError), affinity.started(pool):
        use_threads(cores.threads)
    _tell_together(world, "oversubscribed: more threads than cores; none is pinned" if cores.crowded else None)
    if args.kernels == "numpy":
        return Prepared(naive, cores)

    def load():
        with affinity.started(pool):
            compile_kernels(recipe, tell if world.rank == 0 else lambda text: None)

    world.one_per_host_first(load)
    ops = fast.with_winograd(args.winograd)
    if args.no_pin or cores.crowded:
        return Prepared(ops, cores)
    refused = _pin(cores, pool)
    _tell_together(world, refused)
    decode_initializer = partial(affinity.release, cores)
    if refused:
        return Prepared(ops, cores, decode_initializer)
    cores = replace(cores, pinned=True)
    return Prepared(ops, cores, decode_initializer, (partial(affinity.to_communication, cores),))


def _pin(cores, pool):
    """Pin this rank's threads; returns why not, where the system refuses."""
    try:
        affinity.pin(cores, pool, main_computes=numba.threading_layer() != "workqueue")
    except OSError as error:
        affinity.release(cores)  # if it was only the last of them
        return f"threads cannot be pinned, and go on unpinned: {error.strerror}"
    return None


def _tell_together(world, text):
    """One line for all ranks that have something to tell (None: nothing); the first one's, and how many more."""
    reports = [report for report in world.allgather(text and (world.rank, world.host, text)) if report]
    if reports and world.rank == 0:
        rank, host, line = reports[0]
        more = f" (and {len(reports) - 1} more)" if len(reports) > 1 else ""
        tell(f"rank {rank} on {host}{more}: {line}")


def tell(text):
    """A line for people, whoever reads the output."""
    print(text, file=sys.stderr, flush=True)
