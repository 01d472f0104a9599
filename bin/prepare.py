"""What train and evaluate do alike before they begin: choose kernels and threads, and compile."""

import sys

from kernels import fast, naive
from kernels.cpu import set_threads
from kernels.winograd import set_winograd
from mpi.affinity import threads_for
from mpi.agree import together
from nptrain.compile import compile_kernels
from nptrain.errors import InputError


def add_arguments(parser):
    """The flags that `kernels_and_threads` reads."""
    parser.add_argument("--threads", metavar="N", type=int, help="a rank (cores it may use / ranks on its host)")
    parser.add_argument(
        "--kernels", choices=["fast", "numpy"], default="fast", help="compiled, or the plain reference")  # fmt: skip
    add_winograd(parser)


def add_winograd(parser):
    """The switch of Winograd's convolutions, for `set_winograd`."""
    parser.add_argument(
        "--winograd", choices=["auto", "never"], default="auto",
        help="3x3 convolutions by F(4x4, 3x3) where faster, a digit less exact, or all direct")  # fmt: skip


def kernels_and_threads(args, world, recipe):
    """(kernels, threads of this rank). The compiled ones are ready: one rank of each host has compiled what its
    others load. All ranks call it. Raises InputError if there are not so many cores.
    """
    set_winograd(args.winograd)
    threads = threads_for(world) if args.threads is None else args.threads
    with together(world, InputError):
        try:
            set_threads(threads)
        except ValueError as error:
            raise InputError(f"--threads: found {error}") from None
    if args.kernels == "numpy":
        return naive, threads
    world.one_a_host_first(lambda: compile_kernels(recipe, tell if world.rank == 0 else lambda text: None))
    return fast, threads


def tell(text):
    """A line for people, whoever reads the output."""
    print(text, file=sys.stderr, flush=True)
