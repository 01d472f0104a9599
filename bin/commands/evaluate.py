"""Evaluate weights: loss, top-1 and top-5 over all records of an LMDB.

bin/evaluate --weights runs/photos/checkpoints/phase2_iter_1400.caffemodel \\
    --data DIR
bin/evaluate --weights A.caffemodel --weights B.caffemodel --data DIR

Several --weights are an ensemble: the mean of their probabilities is evaluated,
and each of them.

Network, crop and preprocessing are those of --recipe, or of a solver's net
file; without both, those of the run that the weights belong to; without a run,
those of resnet50-448nodes. The number of classes is that of the weights.

bin/evaluate --model train_val.prototxt --weights FILE --iterations 50

As `caffe test`: network, preprocessing and data are those of the net file.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from bin.common import weights
from bin.common.agreement import agree_on_files, agreed_arguments
from bin.common.arguments import Parser, expect_at_least, expect_not_both
from bin.common.caffe_files import add_glog_arguments
from bin.common.caffe_test import OUTPUTS, ModelFile, add_test_arguments
from bin.common.prepare import add_arguments, kernels_and_cores
from bin.common.weights import chosen_recipe, read_weights, skipped_layers
from mpi.agree import raise_together
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.evaluate import evaluate_batches, evaluate_members
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.report.table import WIDTH, columns
from nptrain.run.caffe_log import test_lines
from nptrain.run.checkpoint import fill_arena

NUMBER = 7  # characters of 100.00%
NAME = WIDTH - 3 * (2 + NUMBER)  # characters of a file's name beside three numbers


def parser():
    p = Parser(prog="evaluate", description=__doc__)
    p.add_argument("--weights", "-weights", metavar="FILE", action="append", required=True,
                   help=".caffemodel to evaluate; may be repeated, for an ensemble")  # fmt: skip
    p.add_argument("--data", metavar="DIR", help="LMDB of labelled images (with --model: that of the net file)")
    weights.add_arguments(p)
    p.add_argument("--batch-size", metavar="N", type=int, help="images in a batch")
    add_arguments(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    add_test_arguments(p)
    add_glog_arguments(p)
    return p


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    with raise_together(world, InputError):
        check_flags(args)
        recipe, files, note = chosen_recipe(args, args.weights, ModelFile.read(args.model) if args.model else None)
        blobs_of, classes = read_all(args.weights)
        recipe = replace(recipe, classes=classes)
        dataset = LmdbDataset(args.data or files.data(), recipe.classes)
    flag = "model" if args.model else "solver"
    agree_on_files(world, data=dataset, **{flag: files and files.content()}, **{
        f"weights {number}" if number else "weights": Path(path).read_bytes()
        for number, path in enumerate(args.weights)
    })  # fmt: skip
    ready = kernels_and_cores(args, world, recipe)
    network = ResNet.of(recipe, ready.ops)
    members, skipped = [], []
    with raise_together(world, InputError):
        for path, blobs in blobs_of.items():
            skipped += skipped_layers(path, fill_arena(network.arena, blobs, path))
            members.append(Inference(network))
    del blobs_of, blobs
    how = dataset, recipe.test_transform(), recipe, world, ready.cores.threads
    batches, results = None, []
    if args.iterations:
        batches = evaluate_batches(members[0], *how, args.iterations, ready.decode_initializer)
    else:
        results = evaluate_members(members, *how, initializer=ready.decode_initializer)
    if world.rank == 0:
        for line in filter(None, [note, *skipped]):
            print(line, file=sys.stderr)
        print(text_of(args, results) if batches is None else caffe_text(batches, files if args.model else None))


def text_of(args, results):
    """The results as the user wants them: of each member of an ensemble, if there are several, and at last of all."""
    *members, result = results
    if args.json:
        entries = [{"weights": path, **scores} for path, scores in zip(args.weights, members, strict=False)]
        return json.dumps({**result, "members": entries} if entries else result)
    if members:
        return table(args.weights, members, result)
    return (f"{result['records']} images: loss {result['loss']:.4f}, top-1 {result['top1']:.2%}, "
            f"top-5 {result['top5']:.2%}")  # fmt: skip


def caffe_text(batches, model):
    """The lines of `caffe test`, with the outputs of a ModelFile, or those of the published net."""
    return "\n".join(test_lines(batches, model.outputs if model else OUTPUTS))


def check_flags(args):
    """Raise InputError for flags that are missing, or make no sense together."""
    expect_at_least(args, 1, "iterations", "batch_size")
    expect_not_both(args, ("model", "recipe"), ("model", "solver"), ("iterations", "json"))
    if args.iterations and len(args.weights) > 1:
        raise InputError(f"--iterations: found with {len(args.weights)} --weights, expected one of them")
    resolved = [os.path.realpath(path) for path in args.weights]
    for path, file in zip(args.weights, resolved, strict=True):
        if resolved.count(file) > 1:
            raise InputError(f"--weights: found {path} more than once, expected different files")
    if not (args.data or args.model):
        raise InputError("--data: found none, expected the folder of an LMDB, or --model with a net file that names it")


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
