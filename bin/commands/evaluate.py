"""Loss, top-1 and top-5 of a .caffemodel over every record of an LMDB.

  bin/evaluate --weights RUN/checkpoints/phase2_iter_390.caffemodel --data DIR
  bin/evaluate --weights A.caffemodel --weights B.caffemodel --data DIR
  mpirun -n 2 bin/evaluate --weights A.caffemodel --data DIR

Several are an ensemble: the mean of their probabilities is evaluated, beside
each of them.

Network, crop and preprocessing are those of --recipe, or of a solver's net
file; without them, of the run that the weights lie in; without that, of
resnet50-448nodes. The number of classes is that of the weights.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from bin.common import weights
from bin.common.agreement import agree_on_files, agreed_arguments
from bin.common.arguments import Parser
from bin.common.prepare import add_arguments, kernels_and_cores
from bin.common.weights import chosen_recipe, read_weights
from mpi.agree import raise_together
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.evaluate import evaluate_members
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.run.checkpoint import fill_arena

NAME = 53  # characters: with its three numbers a line has 80


def parser():
    p = Parser(prog="evaluate", description=__doc__)
    p.add_argument("--weights", metavar="FILE", action="append", required=True,
                   help=".caffemodel; may be repeated: an ensemble")  # fmt: skip
    p.add_argument("--data", metavar="DIR", required=True, help="LMDB of labelled images")
    weights.add_arguments(p)
    p.add_argument("--batch-size", metavar="N", type=int, help="images at a time")
    add_arguments(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    with raise_together(world, InputError):
        recipe, solver, note = chosen_recipe(args, args.weights)
        places = [os.path.realpath(path) for path in args.weights]
        twice = next((path for path, place in zip(args.weights, places, strict=True) if places.count(place) > 1), None)
        if twice:
            raise InputError(f"--weights: found {twice} more than once, expected different files")
        files, classes = read_all(args.weights)
        recipe = replace(recipe, classes=classes)
        dataset = LmdbDataset(args.data, recipe.classes)
    agree_on_files(world, data=dataset, solver=solver, **{
        f"weights {number}" if number else "weights": Path(path).read_bytes()
        for number, path in enumerate(args.weights)
    })  # fmt: skip
    ready = kernels_and_cores(args, world, recipe)
    network = ResNet.of(recipe, ready.ops)
    members, skipped = [], {}
    with raise_together(world, InputError):
        for path, blobs in files.items():
            skipped[path] = fill_arena(network.arena, blobs, path)
            members.append(Inference(network))
    del files, blobs
    *each, result = evaluate_members(members, dataset, recipe.test_transform(), recipe, world,
                                      ready.cores.threads, initializer=ready.decode_initializer)  # fmt: skip
    if world.rank:
        return
    if note:
        print(note, file=sys.stderr)
    for path, names in skipped.items():
        for name in names:
            print(f"{path}: skipped layer {name}, which this network does not have", file=sys.stderr)
    if args.json:
        found = [{"weights": path, **one} for path, one in zip(args.weights, each, strict=False)]
        print(json.dumps({**result, "members": found} if found else result))
    elif each:
        print(table(args.weights, each, result))
    else:
        print(f"{result['records']} images: loss {result['loss']:.4f}, top-1 {result['top1']:.2%}, "
              f"top-5 {result['top5']:.2%}")  # fmt: skip


def read_all(paths):
    """({path: blobs}, number of classes, that of all the files)."""
    files, classes = {}, None
    for path in paths:
        files[path], found = read_weights(path)
        if classes not in (None, found):
            raise InputError(f"{path}: found {found} classes, expected {classes}, as in {paths[0]}")
        classes = found
    return files, classes


def table(paths, each, result):
    """The members' results and the ensemble's, a line each of up to 80 columns."""
    above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = [*(os.path.relpath(path, above) for path in paths), f"ensemble of {len(paths)}"]
    names = [name if len(name) <= NAME else f"...{name[3 - NAME :]}" for name in names]
    head = (f"{result['records']} images", "loss", "top-1", "top-5")
    rows = [(name, f"{one['loss']:.4f}", f"{one['top1']:.2%}", f"{one['top5']:.2%}")
            for name, one in zip(names, [*each, result], strict=True)]  # fmt: skip
    width = max(len(name) for name, *_ in [head, *rows])
    return "\n".join(f"{name:{width}}  {loss:>7}  {top1:>7}  {top5:>7}" for name, loss, top1, top5 in [head, *rows])
