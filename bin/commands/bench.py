"""Measure this machine.

bin/bench kernels --shape 3x3      convolutions: error, then speed of each pass
bin/bench step --against torch     training step, in turn with PyTorch's
bin/bench inference --batch 1      forward pass
mpirun -n 2 bin/bench step         data-parallel training step
mpirun -n 2 bin/bench allreduce    sums of gradients over ranks, by bucket size
bin/bench data data/train          decoding, augmentation and the whole loader
bin/bench roofline --out roof.png  operations against FMA peak and bandwidth
bin/bench tiles                    register tiles alone, from the L1 cache
"""

import json
import math
import textwrap
from dataclasses import replace

from bin.common.agreement import agreed_arguments
from bin.common.arguments import Parser, add_renamed, expect_at_least, expect_positive
from bin.common.prepare import add_precision, add_winograd, kernels_and_cores, slow_precision, tell, use_threads
from kernels import cache
from mpi.agree import raise_together
from nptrain.bench import allreduce, convolutions, data, parallel, roofline, step, tiles
from nptrain.bench.against import check_installed
from nptrain.errors import InputError
from nptrain.network.compile import compile_kernels
from nptrain.recipes.published import RECIPES
from nptrain.report.table import report

PARALLEL = ("step", "allreduce")  # measurements that several ranks can make
SIZES = "0.25,1,4,8,16,32,64,all"  # MiB


def parser():
    p = Parser(prog="bench", description=__doc__)
    commands = p.add_subparsers(dest="what", metavar="WHAT", required=True)

    sub = add(commands, "kernels", "every convolution of ResNet-50: error against float64, then speed")
    sub.add_argument("--shape", metavar="TEXT", default="",
                     help='only shapes whose label contains TEXT, e.g. "3x3/1" or "512>"')  # fmt: skip
    for name, description in (
        ("step", "training step: speed, memory, time by kind of operation; under mpirun a data-parallel step, with and "
                 "without communication"),
        ("inference", "forward pass with running statistics: speed, memory, time by kind of operation"),
    ):  # fmt: skip
        sub = add(commands, name, description)
        add_winograd(sub)
        sub.add_argument("--against", choices=["torch"],
                         help="run another program in turn with this one, in the same precision")  # fmt: skip
        sub.add_argument("--mode", choices=["eager", "compile", "both"], help="mode of --against torch (both)")
    sub = add(commands, "allreduce", "sums of gradients over the ranks of mpirun, and how much of them a step hides")
    add_winograd(sub)
    sub.add_argument("--bucket-mib", metavar="X", action="append",
                     help=f"bucket sizes, with commas or repeated; all: one bucket ({SIZES})")  # fmt: skip
    add_renamed(sub, "--bucket-mb", "--bucket-mib", action="append")
    sub.add_argument("--value-bytes", type=int, choices=[4, 8],
                     help="bytes of a gradient when sent (as bin/train: 4 or, above two ranks, 8)")  # fmt: skip
    sub = add(commands, "data", "input pipeline: each stage on one core, the loader on all")
    sub.add_argument("dir", metavar="DIR", nargs="?", help="LMDB (a temporary one of generated images)")
    sub.add_argument("--records", metavar="N", type=int, default=256, help="number of images (%(default)s)")
    sub.add_argument("--decode-threads", metavar="N", type=int, help="threads of the loader (as --threads)")
    sub.add_argument("--rate", metavar="X", type=float, help="images/s of a training step (measured)")
    sub = add(commands, "roofline", "operations of a training step against FMA peak and memory bandwidth")
    sub.add_argument("--out", metavar="FILE", default="roofline.png", help="picture to write (%(default)s)")
    sub = add(commands, "tiles", "register tiles alone: share of one core's FMA peak, from the L1 cache", images=False)
    sub.add_argument("--assembly", metavar="TILE",
                     help="print the inner loop of a tile of the table, for llvm-mca")  # fmt: skip
    return p


def add(commands, name, description, images=True):
    """Add a sub-command with the flags that all have, and if it is about images on threads, those of these. Returns its
    parser.
    """
    sentence = textwrap.fill(f"{description[0].upper()}{description[1:]}.", 79, break_on_hyphens=False)
    p = commands.add_parser(name, help=description, description=sentence)
    if images:
        p.add_argument("--batch", metavar="N", type=int, default=16, help="images in a batch (%(default)s)")
        p.add_argument("--crop-size", metavar="N", type=int, default=224, help="side of the images (%(default)s)")
        p.add_argument("--threads", metavar="N", type=int, help="threads of the kernels (all cores it may use)")
    add_precision(p)
    p.add_argument("--repeats", metavar="N", type=int, default=7, help="repeats, whose median is shown (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return p


def modes(args):
    """The modes of PyTorch to compare with."""
    if not args.against:
        return ()
    return ("eager", "compile") if args.mode in (None, "both") else (args.mode,)


def precision_of(args):
    """The precision of activations."""
    return args.precision or "float32"


def bucket_sizes(args):
    """Bucket sizes in MiB; infinity for one bucket. Raises InputError."""
    sizes = []
    for text in ",".join(args.bucket_mib or [SIZES]).split(","):
        try:
            size = math.inf if text == "all" else float(text)
        except ValueError:
            size = math.nan
        if not size > 0:
            raise InputError(f"--bucket-mib: found {text!r}, expected more than 0, or all")
        sizes.append(size)
    return sizes


def check(args, world):
    """Raises InputError for values that make no sense."""
    if world.size > 1 and args.what not in PARALLEL:
        raise InputError(
            f"{args.what}: found {world.size} ranks, expected one: only {' and '.join(PARALLEL)} run on several"
        )
    expect_at_least(args, 1, "batch", "repeats", "records", "decode_threads")
    expect_at_least(args, 32, "crop_size")
    expect_positive(args, "rate")
    if getattr(args, "mode", None) and not args.against:
        raise InputError("--mode: expected only with --against torch")
    if getattr(args, "against", None):
        check_installed()
    if args.what == "allreduce":
        bucket_sizes(args)


def prepare(args, world):
    """Compile the kernels and choose threads. Returns Prepared where ranks share the machine as in bin/train; None for
    one process, which may use all its cores.
    """
    recipe = replace(RECIPES["resnet50-448nodes"], precision=precision_of(args))
    if world.size > 1 or args.what == "allreduce":
        args.kernels, args.no_pin = "fast", False
        return kernels_and_cores(args, world, recipe, comm_threads=None)
    if getattr(args, "threads", None) is not None:
        use_threads(args.threads)
    if args.what not in ("data", "tiles"):
        for line in filter(None, (cache.note, slow_precision(recipe.precision))):
            tell(line)
        compile_kernels(recipe, tell)
    return None


def measure(args, world, ready):
    """Run the sub-command. Returns its result."""
    if args.what == "tiles":
        return tiles.measure(args.repeats, precision_of(args))
    common = (args.batch, args.crop_size, args.repeats)
    match args.what:
        case "kernels":
            return convolutions.measure(*common, args.shape, precision_of(args))
        case "step" if world.size > 1:
            return parallel.measure(world, ready, *common, modes(args), precision_of(args))
        case "step" | "inference":
            return step.measure(args.what == "step", *common, modes(args), args.winograd, precision_of(args))
        case "allreduce":
            sizes = bucket_sizes(args)
            return allreduce.measure(world, *common, sizes, args.value_bytes, ready.comm_initializers, ready.ops,
                                     precision_of(args))  # fmt: skip
        case "data":
            return data.measure(args.dir, args.records, *common, args.decode_threads, args.rate, precision_of(args))
        case "roofline":
            return roofline.measure(*common, args.out, precision_of(args))


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    with raise_together(world, InputError):
        check(args, world)
    if args.what == "tiles" and args.assembly:
        return print(tiles.assembly(args.assembly, precision_of(args)))
    result = measure(args, world, prepare(args, world))
    if world.rank == 0:
        print(json.dumps(result) if args.json else report(result))
