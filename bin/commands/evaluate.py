"""Evaluate weights: loss, top-1 and top-5 over all records of an LMDB.

bin/evaluate --weights runs/photos --data DIR
bin/evaluate --weights A.caffemodel --weights B.caffemodel --data DIR

A run stands for its best checkpoint, if it has chosen one, else for its newest.

Several --weights are an ensemble: the mean of their probabilities is evaluated,
and each of them.

Network, crop and preprocessing are those of --recipe, or of a solver's net
file; without both, those of the run that the weights belong to; without a run,
those of resnet50-448nodes. The number of classes is that of the weights.

bin/evaluate --model train_val.prototxt --weights FILE --iterations 50

As `caffe test`: network, preprocessing and data are those of the net file.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from bin.common import results_text, weights
from bin.common.agreement import agree_on_files, agreed_arguments
from bin.common.arguments import Parser, expect_at_least, expect_not_both
from bin.common.caffe_files import add_glog_arguments
from bin.common.caffe_test import OUTPUTS, ModelFile, add_test_arguments
from bin.common.data_sets import DataSet, expect_same_classes, read_once
from bin.common.prepare import add_arguments, kernels_and_cores, tell
from bin.common.weights import (
    chosen_recipe,
    load_members,
    names_of_all,
    precision_note,
    read_all,
    runs_of,
    weights_of,
)
from mpi.agree import raise_together
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.evaluate import evaluate_batches, evaluate_members
from nptrain.network.resnet import ResNet
from nptrain.run.caffe_log import test_lines


def parser():
    p = Parser(prog="evaluate", description=__doc__)
    p.add_argument("--weights", "-weights", metavar="FILE", action="append", required=True,
                   help="run, or .caffemodel, to evaluate; may be repeated, for an ensemble")  # fmt: skip
    p.add_argument("--data", metavar="DIR", help="LMDB of labelled images (with --model: that of the net file)")
    weights.add_arguments(p)
    p.add_argument("--batch-size", metavar="N", type=int, help="images in a batch")
    add_arguments(p.add_argument_group("kernels and cores"))
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--per-class", action="store_true", help="also top-1 of each class")
    add_test_arguments(p)
    add_glog_arguments(p)
    return p


def main(argv, world):
    args = agreed_arguments(parser(), argv, world)
    runs = runs_of(args.weights)
    args.weights = read_once(world, lambda: [weights_of(path, tell) for path in args.weights])
    with raise_together(world, InputError):
        check_flags(args)
        files = ModelFile.read(args.model) if args.model else None
        recipe, files, note = chosen_recipe(args, args.weights, files, runs)
        blobs_of, classes = read_all(args.weights)
        recipe = replace(recipe, classes=classes)
        dataset = LmdbDataset(args.data or files.data(), recipe.classes)
    names, unknown = read_once(world, lambda: checked_classes(args.weights, runs, dataset))
    flag = "model" if args.model else "solver"
    agree_on_files(world, data=dataset, **{flag: files and files.content()}, **{
        f"weights {number}" if number else "weights": Path(path).read_bytes()
        for number, path in enumerate(args.weights)
    })  # fmt: skip
    ready = kernels_and_cores(args, world, recipe)
    with raise_together(world, InputError):
        members, skipped = load_members(ResNet.of(recipe, ready.ops), blobs_of)
    del blobs_of
    how = dataset, recipe.test_transform(), recipe, world, ready.cores.threads
    batches, results, per_class = None, [], np.zeros((classes, 2)) if args.per_class else None
    if args.iterations:
        batches = evaluate_batches(members[0], *how, args.iterations, ready.decode_initializer)
    else:
        results = evaluate_members(members, *how, initializer=ready.decode_initializer, per_class=per_class)
    if world.rank == 0:
        for line in filter(None, [note, precision_note(recipe, runs), unknown, *skipped]):
            print(line, file=sys.stderr)
        if batches is None:
            print(results_text.text(args.weights, results, class_rows(names, per_class), args.json))
        else:
            print(caffe_text(batches, files if args.model else None))


def checked_classes(paths, runs, dataset):
    """(names of the classes of weights or data, line on what cannot be checked or None). Raises InputError if the data
    set has other classes than the runs whose weights `paths` are, or another number of them than the weights.
    """
    data = DataSet.read(dataset.path)
    data.expect_labels_below(dataset.classes, f"as the weights have {dataset.classes} classes")
    of_runs = names_of_all(paths, dataset.classes, runs)
    expect_same_classes(data.path, data.names, of_runs, f"the run of {paths[0]}")
    if data.names and len(data.names) != dataset.classes:
        raise InputError(f"{data.path}: found {len(data.names)} classes, expected {dataset.classes}, those of "
                         f"{paths[0]}")  # fmt: skip
    without = [what for what, names in ((data.path, data.names), (f"the run of {paths[0]}", of_runs)) if not names]
    unknown = (f"that the {dataset.classes} classes of weights and data are the same is not checked: no names of "
               f"classes in {' and '.join(without)}")  # fmt: skip
    return data.names or of_runs, unknown if without else None


def class_rows(names, per_class):
    """[(label, name or None, records, hits)] of each class; none without `per_class`."""
    if per_class is None:
        return []
    return [(label, names[label] if names else None, int(records), int(hits))
            for label, (records, hits) in enumerate(per_class)]  # fmt: skip


def caffe_text(batches, model):
    """The lines of `caffe test`, with the outputs of a ModelFile, or those of the published net."""
    return "\n".join(test_lines(batches, model.outputs if model else OUTPUTS))


def check_flags(args):
    """Raise InputError for flags that are missing, or make no sense together."""
    expect_at_least(args, 1, "iterations", "batch_size")
    expect_not_both(args, ("model", "recipe"), ("model", "solver"), ("iterations", "json"), ("iterations", "per_class"))
    if args.iterations and len(args.weights) > 1:
        raise InputError(f"--iterations: found with {len(args.weights)} --weights, expected one of them")
    resolved = [os.path.realpath(path) for path in args.weights]
    for path, file in zip(args.weights, resolved, strict=True):
        if resolved.count(file) > 1:
            raise InputError(f"--weights: found {path} more than once, expected different files")
    if not (args.data or args.model):
        raise InputError("--data: found none, expected the folder of an LMDB, or --model with a net file that names it")
