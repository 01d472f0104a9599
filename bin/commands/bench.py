"""Measure this machine.

bin/bench kernels --shape 3x3       every convolution: checked, then timed
bin/bench step --against torch      a training step, and PyTorch's beside it
bin/bench inference --batch 1       the forward pass alone
mpirun -n 2 bin/bench step          a data-parallel step, and without exchange
mpirun -n 2 bin/bench allreduce     sums of gradients by size of bucket
bin/bench data data/train           decoding, augmentation and the whole loader
bin/bench roofline --out roof.png   operations against peak and bandwidth
"""

import json
import math
from textwrap import fill

from bin.common.agreement import agreed_arguments
from bin.common.arguments import Parser, add_renamed
from bin.common.prepare import add_winograd, kernels_and_cores, tell
from kernels.cpu import set_threads
from kernels.winograd import set_winograd
from mpi.agree import raise_together
from nptrain.bench import allreduce, convolutions, data, parallel, roofline, step
from nptrain.bench.against import check_installed
from nptrain.errors import InputError
from nptrain.network.compile import compile_kernels
from nptrain.recipes.published import RECIPES
from nptrain.report.table import report

PARALLEL = ("step", "allreduce")  # what several ranks can measure
SIZES = "0.25,1,4,8,16,32,64,all"  # MiB


def parser():
    p = Parser(prog="bench", description=__doc__)
    commands = p.add_subparsers(dest="what", metavar="WHAT", required=True)

    sub = add(commands, "kernels", "every convolution of ResNet-50: error against float64, then speed")
    sub.add_argument("--shape", metavar="TEXT", default="",
                     help='only shapes whose name contains it, e.g. "3x3/1" or "512>"')  # fmt: skip
    for name, says in (
        ("step", "a whole training step: speed, memory, and the kinds of operation it spends its time on; under mpirun "
                 "a data-parallel one, beside the same step without exchange"),
        ("inference", "the forward pass by running statistics, in the same way"),
    ):  # fmt: skip
        sub = add(commands, name, says)
        add_winograd(sub)
        sub.add_argument("--against", choices=["torch"], help="run another program's in turn, in its own process")
        sub.add_argument("--mode", choices=["eager", "compile", "both"], help="of --against torch (both)")
    sub = add(commands, "allreduce", "summing the gradients over the ranks of mpirun, and what of it a step hides")
    add_winograd(sub)
    sub.add_argument("--bucket-mib", metavar="X", action="append",
                     help=f"sizes of buckets, with commas or repeated; all: one bucket ({SIZES})")  # fmt: skip
    add_renamed(sub, "--bucket-mb", "--bucket-mib", action="append")
    sub.add_argument("--value-bytes", type=int, choices=[4, 8],
                     help="of a gradient on its way (as bin/train does: 4 up to two ranks, above 8)")  # fmt: skip
    sub = add(commands, "data", "the input pipeline: each stage on one core, the loader on all")
    sub.add_argument("dir", metavar="DIR", nargs="?", help="an LMDB (one of made-up photographs, then removed)")
    sub.add_argument("--records", metavar="N", type=int, default=256, help="images to use (%(default)s)")
    sub.add_argument("--decode-threads", metavar="N", type=int, help="of the loader (as --threads)")
    sub.add_argument("--rate", metavar="X", type=float, help="images/s that a step takes (measured here)")
    sub = add(commands, "roofline", "FMA peak, memory bandwidth, and where each operation of the step stands")
    sub.add_argument("--out", metavar="FILE", default="roofline.png", help="the picture (%(default)s)")
    return p


def add(commands, name, says):
    """A sub-command with the flags that all have."""
    p = commands.add_parser(name, help=says, description=fill(says[0].upper() + says[1:] + ".", 79))
    p.add_argument("--batch", metavar="N", type=int, default=16, help="images at a time (%(default)s)")
    p.add_argument("--crop-size", metavar="N", type=int, default=224, help="side of the images (%(default)s)")
    p.add_argument("--threads", metavar="N", type=int, help="of the kernels (the cores it may use)")
    p.add_argument("--repeats", metavar="N", type=int, default=7, help="medians are over so many (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return p


def modes(args):
    """The modes of PyTorch to run beside ours."""
    if not args.against:
        return ()
    return ("eager", "compile") if args.mode in (None, "both") else (args.mode,)


def bucket_sizes(args):
    """In MiB; infinity for all at once. Raises InputError."""
    found = []
    for text in ",".join(args.bucket_mib or [SIZES]).split(","):
        try:
            size = math.inf if text == "all" else float(text)
        except ValueError:
            size = math.nan
        if not size > 0:
            raise InputError(f"--bucket-mib: found {text!r}, expected more than 0, or all")
        found.append(size)
    return found


def check(args, world):
    """Raises InputError for flags that make no sense."""
    if world.size > 1 and args.what not in PARALLEL:
        raise InputError(
            f"{args.what}: found {world.size} ranks, expected one: only {' and '.join(PARALLEL)} take more"
        )
    least = {"batch": 1, "crop_size": 32, "repeats": 1, "records": 1, "decode_threads": 1}
    for name, minimum in least.items():
        value = getattr(args, name, None)
        if value is not None and value < minimum:
            raise InputError(f"--{name.replace('_', '-')}: found {value}, expected at least {minimum}")
    if getattr(args, "rate", None) is not None and not args.rate > 0:
        raise InputError(f"--rate: found {args.rate}, expected more than 0")
    if getattr(args, "mode", None) and not args.against:
        raise InputError("--mode: expected only with --against torch")
    if getattr(args, "against", None):
        check_installed()
    if args.what == "allreduce":
        bucket_sizes(args)


def prepare(args, world):
    """Kernels ready, and this rank's cores: several share the machine as in bin/train; None: one process, on all that
    it may use.
    """
    recipe = RECIPES["resnet50-448nodes"]
    if world.size > 1 or args.what == "allreduce":
        args.kernels, args.no_pin = "fast", False
        return kernels_and_cores(args, world, recipe, comm_threads=None)
    if args.threads is not None:
        try:
            set_threads(args.threads)
        except ValueError as error:
            raise InputError(f"--threads: found {error}") from None
    if args.what != "data":
        compile_kernels(recipe, tell)
    set_winograd(getattr(args, "winograd", "auto"))
    return None


def measure(args, world, ready):
    """What the sub-command does; its result on rank 0."""
    common = (args.batch, args.crop_size, args.repeats)
    match args.what:
        case "kernels":
            return convolutions.measure(*common, args.shape)
        case "step" if world.size > 1:
            return parallel.measure(world, ready, *common, modes(args))
        case "step" | "inference":
            return step.measure(args.what == "step", *common, modes(args))
        case "allreduce":
            return allreduce.measure(world, *common, bucket_sizes(args), args.value_bytes, ready.comm_initializers)
        case "data":
            return data.measure(args.dir, args.records, *common, args.decode_threads, args.rate)
        case "roofline":
            return roofline.measure(*common, args.out)


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    with raise_together(world, InputError):
        check(args, world)
    result = measure(args, world, prepare(args, world))
    if world.rank == 0:
        print(json.dumps(result) if args.json else report(result))
