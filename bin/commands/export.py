"""Write a trained network for other programs: ONNX, PyTorch, Caffe and OpenCV.

bin/export --weights runs/photos --onnx photos.onnx --with-preprocessing
bin/export --weights runs/photos --safetensors photos.safetensors
bin/export --weights FILE --prototxt deploy.prototxt --model deploy.caffemodel
bin/export --recipe resnet50-448nodes --classes 10 --prototxt deploy.prototxt

--safetensors also writes model.py beside its file: the network in PyTorch.

A run stands for its best checkpoint, if it has chosen one, else for its newest.

The network is that of --recipe, or of a solver's net file; without both, that
of the run that the weights belong to; without a run, that of resnet50-448nodes.
The number of classes is that of the weights. Existing files are not replaced.
"""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from bin.common.arguments import Parser, expect_at_least
from bin.common.class_names import classes_text, names_of
from bin.common.prepare import tell
from bin.common.weights import add_arguments, chosen_recipe, read_weights, runs_of, skipped_layers, weights_of
from kernels import naive
from nptrain.caffe.caffe_pb2 import TEST
from nptrain.caffe.model import write_caffemodel
from nptrain.caffe_net.writer import deploy, to_text, with_phase
from nptrain.errors import InputError
from nptrain.export import torch_names
from nptrain.export.metadata import describe
from nptrain.export.safetensors_file import write_safetensors
from nptrain.files import atomic_write, writing
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.run.checkpoint import fill_arena

FORMATS = ("onnx", "safetensors", "prototxt", "model")


def parser():
    p = Parser(prog="export", description=__doc__)
    p.add_argument("--weights", metavar="FILE", help="run, or .caffemodel, whose weights are written")
    p.add_argument("--onnx", metavar="FILE", help="ONNX file to write")
    p.add_argument("--with-preprocessing", action="store_true",
                   help="the ONNX file takes uint8 RGB pixels, subtracts the mean and scales")  # fmt: skip
    p.add_argument("--safetensors", metavar="FILE", help="weights to write for PyTorch, and model.py beside them")
    p.add_argument("--prototxt", metavar="FILE", help="Caffe's deploy net to write")
    p.add_argument("--model", metavar="FILE", help=".caffemodel to write, for the deploy net")
    p.add_argument("--classes", metavar="N", type=int, help="number of classes, if no weights are given")
    p.add_argument("--batch-size", metavar="N", type=int, help="images of the deploy net's batch (1)")
    add_arguments(p)
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    check_flags(args)
    runs = runs_of([args.weights]) if args.weights else []
    args.weights = args.weights and weights_of(args.weights, tell)
    recipe, _, note = chosen_recipe(args, [args.weights] if args.weights else [], None, runs)
    network, names = None, None
    if args.weights:
        blobs, classes = read_weights(args.weights)
        if args.classes not in (None, classes):
            raise InputError(f"--classes: found {args.classes}, expected {classes}, as in {args.weights}")
        recipe, names = replace(recipe, classes=classes), names_of(args.weights, classes, runs[0])
        network = ResNet.of(recipe, naive)
        if note:
            print(note, file=sys.stderr)
        for line in skipped_layers(args.weights, fill_arena(network.arena, blobs, args.weights)):
            print(line, file=sys.stderr)
    elif args.classes is not None:
        recipe = replace(recipe, classes=args.classes)
    text = f"{recipe.architecture.name}, {classes_text(recipe.classes, names)}"
    if args.prototxt or args.model:
        write_caffe(args, recipe, network, text)
    if args.onnx:
        write_onnx(args, recipe, network, names, text)
    if args.safetensors:
        write_torch(args.safetensors, recipe, network, names, text)


def write_caffe(args, recipe, network, text):
    """The deploy net and its weights."""
    net, size, count = deploy(recipe, args.batch_size or 1), recipe.crop_size, args.batch_size or 1
    if args.prototxt:
        with writing(args.prototxt), atomic_write(args.prototxt, "w") as file:
            file.write(to_text(net))
        print(f"{args.prototxt}: {text}; data: {count} x 3 x {size} x {size}, BGR, {pixels(recipe)}")
    if args.model:
        with writing(args.model):
            write_caffemodel(args.model, with_phase(net, TEST), network.arena.export())
        print(f"{args.model}: the weights of {args.weights}")


def write_onnx(args, recipe, network, names, text):
    from nptrain.export import onnx_file  # here: the package is not needed for other formats

    inside, size = args.with_preprocessing, recipe.crop_size
    description = describe(recipe, names, "RGB" if inside else "BGR")
    with writing(args.onnx):
        onnx_file.write_onnx(args.onnx, Inference(network), recipe, description, inside)
    shape = f"image: uint8 N x {size} x {size} x 3, RGB" if inside else f"data: N x 3 x {size} x {size}, BGR"
    print(f"{args.onnx}: {text}; {shape}" + ("" if inside else f", {pixels(recipe)}"))


def write_torch(path, recipe, network, names, text):
    """The safetensors, and model.py beside them."""
    tensors = torch_names.to_torch({name: blobs for name, _, blobs in network.arena.export()}, recipe.architecture)
    with writing(path):
        write_safetensors(path, tensors, describe(recipe, names, "RGB"))
    program = program_beside(path)
    with writing(program), atomic_write(program) as file:
        file.write(torch_names.PROGRAM.read_bytes())
    print(f"{path}: {text}; RGB, {pixels(recipe, 'RGB')}")
    print(f"{program}: the network in PyTorch: model.load({Path(path).name!r})")


def program_beside(path):
    return Path(path).parent / torch_names.PROGRAM.name


def pixels(recipe, channels="BGR"):
    """What the input is of a pixel's values."""
    mean = recipe.mean_bgr if channels == "BGR" else recipe.mean_bgr[::-1]
    return f"(pixel - mean) * {recipe.scale:g}, mean {', '.join(f'{value:g}' for value in mean)}"


def check_flags(args):
    """Raise InputError for values that make no sense, alone or together, and for files that exist."""
    if not any(getattr(args, flag) for flag in FORMATS):
        raise InputError("--onnx: found none, nor --safetensors, --prototxt or --model, expected one or more of them")
    for flag in ("model", "onnx", "safetensors"):
        if getattr(args, flag) and not args.weights:
            raise InputError(f"--{flag}: found without --weights, expected a .caffemodel to take the weights from")
    if not (args.weights or args.recipe or args.solver):
        raise InputError("--weights: found none, nor --recipe or --solver, expected one of them")
    if args.with_preprocessing and not args.onnx:
        raise InputError("--with-preprocessing: found without --onnx, which it is for")
    if args.batch_size and not (args.prototxt or args.model):
        raise InputError("--batch-size: found without --prototxt or --model: other formats take any number of images")
    expect_at_least(args, 1, "batch_size", "classes")
    if args.onnx and find_spec("onnx") is None:
        raise InputError("--onnx: the package onnx is missing: .venv/bin/pip install -r requirements-export.txt")
    check_paths(args)


def check_paths(args):
    """Raise InputError for files that exist, or cannot be made, or have the same name."""
    paths = {flag: Path(path) for flag in FORMATS if (path := getattr(args, flag))}
    for flag, path in paths.items():
        if path.exists():
            raise InputError(f"--{flag}: {path} exists already: remove it or choose another name")
        if not path.parent.is_dir():
            raise InputError(f"--{flag}: {path.parent} is not a folder")
        if list(paths.values()).count(path) > 1:
            raise InputError(f"--{flag}: found {path} for another format, too, expected a name for each")
    if args.safetensors:
        program = program_beside(args.safetensors)
        if program in paths.values() or (program.exists() and program.read_bytes() != torch_names.PROGRAM.read_bytes()):
            raise InputError(f"--safetensors: {program} is another file, expected to write it: choose another folder")
