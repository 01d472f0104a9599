"""Evaluate weights: loss, top-1 and top-5 over all records of an LMDB.

bin/evaluate --weights runs/photos/checkpoints/phase2_iter_1400.caffemodel \\
    --data DIR
bin/evaluate --weights A.caffemodel --weights B.caffemodel --data DIR

Several --weights are an ensemble: the mean of their probabilities is evaluated,
and each of them.

Network, crop and preprocessing are those of --recipe, or of a solver's net
file; without both, those of the run that the weights belong to; without a run,
those of resnet50-448nodes. The number of classes is that of the weights.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from bin.common import weights
from bin.common.agreement import agree_on_files, agreed_arguments
from bin.common.arguments import Parser
from bin.common.caffe_files import add_glog_arguments
from bin.common.prepare import add_arguments, kernels_and_cores
from bin.common.weights import chosen_recipe, read_weights, skipped_layers
from mpi.agree import raise_together
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.evaluate import evaluate_members
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.report.table import WIDTH, columns
from nptrain.run.checkpoint import fill_arena

NUMBER = 7  # characters of 100.00%
NAME = WIDTH - 3 * (2 + NUMBER)  # characters of a file's name beside three numbers


def parser():
    p = Parser(prog="evaluate", description=__doc__)
    p.add_argument("--weights", "-weights", metavar="FILE", action="append", required=True,
                   help=".caffemodel to evaluate; may be repeated, for an ensemble")  # fmt: skip
    p.add_argument("--data", metavar="DIR", required=True, help="LMDB of labelled images")
    weights.add_arguments(p)
    p.add_argument("--batch-size", metavar="N", type=int, help="images in a batch")
    add_arguments(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    add_glog_arguments(p)
    return p


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    with raise_together(world, InputError):
        recipe, solver, note = chosen_recipe(args, args.weights)
        resolved = [os.path.realpath(path) for path in args.weights]
        for path, file in zip(args.weights, resolved, strict=True):
            if resolved.count(file) > 1:
                raise InputError(f"--weights: found {path} more than once, expected different files")
        files, classes = read_all(args.weights)
        recipe = replace(recipe, classes=classes)
        dataset = LmdbDataset(args.data, recipe.classes)
    agree_on_files(world, data=dataset, solver=solver, **{
        f"weights {number}" if number else "weights": Path(path).read_bytes()
        for number, path in enumerate(args.weights)
    })  # fmt: skip
    ready = kernels_and_cores(args, world, recipe)
    network = ResNet.of(recipe, ready.ops)
    members, skipped = [], []
    with raise_together(world, InputError):
        for path, blobs in files.items():
            skipped += skipped_layers(path, fill_arena(network.arena, blobs, path))
            members.append(Inference(network))
    del files, blobs
    *members_results, result = evaluate_members(members, dataset, recipe.test_transform(), recipe, world,
                                      ready.cores.threads, initializer=ready.decode_initializer)  # fmt: skip
    if world.rank:
        return
    if note:
        print(note, file=sys.stderr)
    for line in skipped:
        print(line, file=sys.stderr)
    if args.json:
        entries = [{"weights": path, **scores} for path, scores in zip(args.weights, members_results, strict=False)]
        print(json.dumps({**result, "members": entries} if entries else result))
    elif members_results:
        print(table(args.weights, members_results, result))
    else:
        print(f"{result['records']} images: loss {result['loss']:.4f}, top-1 {result['top1']:.2%}, "
              f"top-5 {result['top5']:.2%}")  # fmt: skip


def read_all(paths):
    """({path: blobs}, number of classes). Raises InputError if the files have different numbers of classes."""
    files, classes = {}, None
    for path in paths:
        files[path], count = read_weights(path)
        if classes not in (None, count):
            raise InputError(f"{path}: found {count} classes, expected {classes}, as in {paths[0]}")
        classes = count
    return files, classes


def table(paths, results, ensemble):
    """The results of the members and of the ensemble, as lines of up to 80 columns."""
    above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = [*(os.path.relpath(path, above) for path in paths), f"ensemble of {len(paths)}"]
    names = [name if len(name) <= NAME else f"...{name[3 - NAME :]}" for name in names]
    head = (f"{ensemble['records']} images", *(title.rjust(NUMBER) for title in ("loss", "top-1", "top-5")))
    rows = [(name, f"{scores['loss']:.4f}", f"{scores['top1']:.2%}", f"{scores['top5']:.2%}")
            for name, scores in zip(names, [*results, ensemble], strict=True)]  # fmt: skip
    return "\n".join(columns([head, *rows], right=(1, 2, 3)))
