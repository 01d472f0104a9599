"""Write a deploy net, and its weights, for Caffe, OpenCV and others.

bin/export --weights runs/photos/checkpoints/phase2_iter_1400.caffemodel \\
    --prototxt deploy.prototxt --model deploy.caffemodel
bin/export --recipe resnet50-448nodes --classes 10 --prototxt deploy.prototxt

The network is that of --recipe, or of a solver's net file; without both, that
of the run that the weights belong to; without a run, that of resnet50-448nodes.
The number of classes is that of the weights. Existing files are not replaced.
"""

import sys
from dataclasses import replace
from pathlib import Path

from bin.common.arguments import Parser, expect_at_least
from bin.common.weights import add_arguments, chosen_recipe, read_weights, skipped_layers
from kernels import naive
from nptrain.caffe.caffe_pb2 import TEST
from nptrain.caffe.model import write_caffemodel
from nptrain.caffe_net.writer import deploy, to_text, with_phase
from nptrain.errors import InputError
from nptrain.files import atomic_write
from nptrain.network.resnet import ResNet
from nptrain.run.checkpoint import fill_arena


def parser():
    p = Parser(prog="export", description=__doc__)
    p.add_argument("--prototxt", metavar="FILE", required=True, help="deploy net to write")
    p.add_argument("--weights", metavar="FILE", help=".caffemodel whose weights are written")
    p.add_argument("--model", metavar="FILE", help=".caffemodel to write, for the deploy net")
    p.add_argument("--classes", metavar="N", type=int, help="number of classes, if no weights are given")
    p.add_argument("--batch-size", metavar="N", type=int, default=1, help="images of an input batch (%(default)s)")
    add_arguments(p)
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    check_flags(args)
    recipe, _, note = chosen_recipe(args, [args.weights] if args.weights else [])
    if args.weights:
        blobs, classes = read_weights(args.weights)
        if args.classes not in (None, classes):
            raise InputError(f"--classes: found {args.classes}, expected {classes}, as in {args.weights}")
        recipe = replace(recipe, classes=classes)
        network = ResNet.of(recipe, naive)
        if note:
            print(note, file=sys.stderr)
        for line in skipped_layers(args.weights, fill_arena(network.arena, blobs, args.weights)):
            print(line, file=sys.stderr)
    elif args.classes is not None:
        recipe = replace(recipe, classes=args.classes)
    net = deploy(recipe, args.batch_size)
    with atomic_write(args.prototxt, "w") as file:
        file.write(to_text(net))
    if args.model:
        write_caffemodel(args.model, with_phase(net, TEST), network.arena.export())
    size = recipe.crop_size
    mean, scale = ", ".join(f"{value:g}" for value in recipe.mean_bgr), f"{recipe.scale:g}"
    print(f"{args.prototxt}: {net.name}, {recipe.classes} classes; data: {args.batch_size} x 3 x {size} x {size}, "
          f"BGR, (pixel - mean) * {scale}, mean {mean}")  # fmt: skip
    if args.model:
        print(f"{args.model}: the weights of {args.weights}")


def check_flags(args):
    """Raise InputError for values that make no sense, alone or together, and for files that exist."""
    if args.model and not args.weights:
        raise InputError("--model: found without --weights, expected a .caffemodel to take the weights from")
    if not (args.weights or args.recipe or args.solver):
        raise InputError("--weights: found none, nor --recipe or --solver, expected one of them")
    expect_at_least(args, 1, "batch_size", "classes")
    for flag in ("prototxt", "model"):
        path = getattr(args, flag) and Path(getattr(args, flag))
        if path and path.exists():
            raise InputError(f"--{flag}: {path} exists already: remove it or choose another name")
        if path and not path.parent.is_dir():
            raise InputError(f"--{flag}: {path.parent} is not a folder")
