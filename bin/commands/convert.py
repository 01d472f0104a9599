"""Make weights of PyTorch a .caffemodel, which bin/train and all others take.

bin/convert photos.safetensors photos.caffemodel
bin/convert --torchvision resnet50.safetensors resnet50.caffemodel

The first is a file of bin/export --safetensors, perhaps trained on in PyTorch:
network and preprocessing are in its metadata. The second is the state_dict of
a torchvision ResNet. Pickles (.pth, .pt) are never loaded.
"""

import json
from dataclasses import replace
from pathlib import Path

from bin.common.arguments import Parser
from bin.common.class_names import classes_text
from bin.common.weights import SCORING
from kernels import naive
from nptrain.caffe.model import write_caffemodel
from nptrain.caffe_net.writer import trained_net
from nptrain.data.classes import read_classes, write_classes
from nptrain.errors import InputError, within
from nptrain.export import torch_names, torchvision
from nptrain.export.metadata import NETWORK, PIXELS
from nptrain.export.safetensors_file import read_safetensors
from nptrain.files import writing
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import DEFAULT, get_recipe
from nptrain.recipes.recipe import override


def parser():
    p = Parser(prog="convert", description=__doc__)
    p.add_argument("source", metavar="FILE.safetensors", help="weights with torchvision's names of tensors")
    p.add_argument("target", metavar="FILE.caffemodel", help="file to write")
    p.add_argument("--torchvision", action="store_true", help="the weights are torchvision's: ImageNet's mean and "
                   "deviation go into the first convolution")  # fmt: skip
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    expect_new(args.target)
    tensors, metadata = read_safetensors(args.source)
    recipe, names = described(args, metadata)
    architecture = torch_names.architecture_of(tensors, recipe.downsample, args.source)
    if not args.torchvision and recipe.depth != architecture.depth:
        raise InputError(f"{args.source}: metadata: found depth {recipe.depth}, expected {architecture.depth}, as the "
                         "tensors have")  # fmt: skip
    blobs = torch_names.from_torch(tensors, architecture, args.source)
    if args.torchvision:
        blobs = torchvision.with_pixels_of(recipe, blobs)
    recipe = replace(recipe, classes=blobs["fc1000"][1].size, depth=architecture.depth,
                     stem_bias=architecture.stem_bias, first_projection=architecture.first_projection,
                     width=architecture.width)  # fmt: skip
    network = ResNet.of(recipe, naive)
    network.arena.load(blobs, args.source)
    name_classes(args, names, recipe.classes)
    with writing(args.target):
        write_caffemodel(args.target, trained_net(recipe), network.arena.export())
    print(f"{args.target}: {recipe.architecture.name}, {classes_text(recipe.classes, names)}")
    print(f"its network and preprocessing: {' '.join(flags(recipe))}")
    if args.torchvision:
        print(torchvision.DIFFERENCE)


def expect_new(target):
    if Path(target).exists():
        raise InputError(f"{target}: exists already: remove it or choose another name")
    if not Path(target).parent.is_dir():
        raise InputError(f"{target}: {Path(target).parent} is not a folder")


def described(args, metadata):
    """(recipe, names of the classes or None) that a file's metadata describe."""
    base = get_recipe(DEFAULT)
    if args.torchvision:
        if "mean" in metadata:
            raise InputError(f"--torchvision: found a file of bin/export, {args.source}: leave the flag out")
        return torchvision.recipe(base), None
    missing = [name for name in (*NETWORK, *PIXELS, "mean") if name not in metadata]
    if missing:
        raise InputError(f"{args.source}: found no {missing[0]} in its metadata, so its preprocessing is not known; if "
                         "the weights are torchvision's, add --torchvision")  # fmt: skip
    with within(f"{args.source}: metadata"):
        try:
            values = {name: json.loads(metadata[name]) for name in (*NETWORK, *PIXELS, "mean")}
            mean, names = values.pop("mean"), json.loads(metadata.get("classes", "null"))
            values["mean_bgr"] = ",".join(map(str, mean[::-1]))
            names = names and [str(name) for name in names]
        except (ValueError, TypeError, RecursionError):
            raise InputError("damaged, expected what bin/export writes") from None
        return override(base, [f"{name}={value}" for name, value in values.items()]), names


def name_classes(args, names, classes):
    """Write a classes.txt beside the weights, where other commands find it."""
    if names is None:
        return
    if len(names) != classes:
        raise InputError(f"{args.source}: found {len(names)} class names in its metadata, expected {classes}")
    if (found := read_classes(args.target)) not in (None, names):
        raise InputError(
            f"{Path(args.target).parent}/classes.txt: found {len(found)} other names: choose another folder"
        )
    with writing(args.target):
        write_classes(Path(args.target).parent, names)


def flags(recipe):
    """The flags that make the default recipe's network and preprocessing those of `recipe`."""
    base = get_recipe(DEFAULT)
    yield f"--recipe {DEFAULT}"
    for field in SCORING:
        value = getattr(recipe, field)
        if value != getattr(base, field):
            values = value if isinstance(value, tuple) else (value,)
            yield f"--set {field}={','.join(str(each).lower().removesuffix('.0') for each in values)}"
