"""What commands on ranks do before they begin: choose kernels and cores, compile, pin threads."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numba

from kernels import cache, fast, naive
from kernels.cpu import set_threads
from kernels.registers import has_bf16, instruction_set
from mpi import affinity
from mpi.agree import raise_together
from mpi.cores import CoreAssignment
from nptrain.errors import InputError
from nptrain.network.compile import compile_kernels
from nptrain.recipes.check import PRECISIONS

MOST_THREADS = 4096  # more than any host has cores


class Prepared(NamedTuple):
    """Compiled kernels, and this rank's cores.

    decode_initializer  each thread that decodes images calls it first, to run on the rank's cores
    comm_initializers   each thread that communicates calls them first, to run on the communication cores
    """

    ops: ModuleType | SimpleNamespace
    cores: CoreAssignment
    decode_initializer: Callable | None = None
    comm_initializers: tuple[Callable, ...] = ()


def add_arguments(parser):
    """Add the flags that `kernels_and_cores` reads."""
    parser.add_argument("--threads", metavar="N", type=int,
                        help="compute threads per rank (its share of the cores)")  # fmt: skip
    parser.add_argument("--no-pin", action="store_true", help="do not pin threads to cores")
    parser.add_argument("--kernels", choices=["fast", "numpy"], default="fast",
                        help="compiled kernels, or the plain reference (%(default)s)")  # fmt: skip
    add_winograd(parser)
    add_precision(parser)


def add_precision(parser):
    """Add the flag that sets the recipe's `precision`."""
    parser.add_argument("--precision", choices=PRECISIONS,
                        help="of activations and products; bf16: half the memory, and faster on a CPU with "
                             "AVX512-BF16 (the recipe's, float32)")  # fmt: skip


def add_winograd(parser):
    """Add the flag whose value `fast.configured` takes."""
    parser.add_argument("--winograd", choices=["auto", "never"], default="auto",
                        help="Winograd's F(4x4, 3x3) where it is faster, with a digit less of precision; or never "
                             "(%(default)s)")  # fmt: skip


def use_threads(count):
    """Let kernels compute with `count` threads. Raises InputError if that is more than Numba has."""
    try:
        set_threads(count)
    except ValueError as error:
        raise InputError(f"--threads: found {error}") from None


def kernels_and_cores(args, world, recipe, comm_threads=0):
    """Choose kernels, divide the cores, compile, pin. Returns Prepared. All ranks call it.

    comm_threads  threads of a rank that communicate (None: one, if it has enough cores)

    One rank of each host compiles the kernels; its other ranks load them. Raises AgreedError for a number of threads
    that is not possible.
    """
    with raise_together(world, InputError):
        for flag, value, least in (("threads", args.threads, 1), ("comm-threads", comm_threads, 0)):
            if value is not None and not least <= value <= MOST_THREADS:
                raise InputError(f"--{flag}: found {value}, expected {least} to {MOST_THREADS}")
        if (comm_threads or 0) > 1 and world.thread_level != "multiple":
            raise InputError(f"--comm-threads: found {comm_threads}, expected at most 1: only one thread at a time may "
                             f"call {world.library} (thread level {world.thread_level})")  # fmt: skip
    cores, pool = affinity.claim(world, args.threads, comm_threads), []
    with raise_together(world, InputError), affinity.started(pool):
        use_threads(cores.threads)
    _tell_together(world, "oversubscribed: more threads than cores; threads are not pinned" if cores.crowded else None)
    if args.kernels == "numpy":
        return Prepared(plain_kernels(recipe.precision), cores)
    _tell_together(world, cache.note)
    _tell_together(world, slow_precision(recipe.precision))

    def load():
        with affinity.started(pool):
            compile_kernels(recipe, tell if world.rank == 0 else lambda text: None)

    world.one_per_host_first(load)
    ops = fast.configured(args.winograd, recipe.precision)
    if args.no_pin or cores.crowded:
        return Prepared(ops, cores)
    refused = _pin(cores, pool)
    _tell_together(world, refused)
    decode_initializer = partial(affinity.release, cores)
    if refused:
        return Prepared(ops, cores, decode_initializer)
    cores = replace(cores, pinned=True)
    return Prepared(ops, cores, decode_initializer, (partial(affinity.to_communication, cores),))


def plain_kernels(precision):
    """The plain reference kernels for activations in a precision."""
    if precision == "float32":
        return naive
    from kernels import naive_bf16  # here: it needs ml_dtypes

    return naive_bf16


def instructions(recipe):
    """{what: text} of the CPU's instructions that a run's kernels use; other ones give other bits."""
    products = ("AVX512-BF16" if has_bf16() else "float32 FMAs") if recipe.precision == "bf16" else None
    return {"instructions": instruction_set(), "products": products}


def slow_precision(precision):
    """A line, if this CPU has no instructions for a precision; else None."""
    if precision == "bf16" and not has_bf16():
        return "precision bf16: this CPU has no AVX512-BF16: a pair of products takes two float32 FMAs"
    return None


def _pin(cores, pool):
    """Pin this rank's threads. Returns None, or a line that says why they cannot be pinned."""
    try:
        affinity.pin(cores, pool, main_computes=numba.threading_layer() != "workqueue")
    except OSError as error:
        affinity.release(cores)  # this one may be pinned already
        return f"threads cannot be pinned and run unpinned: {error.strerror}"
    return None


def _tell_together(world, text):
    """Print one line if any rank has a `text` (None: none): that of the first, and how many more ranks have one."""
    reports = [report for report in world.allgather(text and (world.rank, world.host, text)) if report]
    if reports and world.rank == 0:
        rank, host, line = reports[0]
        more = f" (and {len(reports) - 1} more)" if len(reports) > 1 else ""
        tell(f"rank {rank} on {host}{more}: {line}")


def tell(text):
    """Print a line for the user on stderr: a program may read stdout."""
    print(text, file=sys.stderr, flush=True)
