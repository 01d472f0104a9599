"""Write a report of one or more runs: one HTML page, and its figures as PNG.

bin/report runs/photos
bin/report runs/one runs/other --out both.html

The page is RUN/report.html, the figures are in RUN/report/. It has the curves,
what ran where, where the time went, one step, and, of the best weights (if the
run has chosen them, else the newest) on the held-out images, the confusion
matrix, the accuracy of each class and the most confident mistakes. The images
are those of the run, or of --data.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from bin.common.arguments import Parser, expect_at_least
from bin.common.class_names import names_of
from bin.common.prepare import add_arguments, kernels_and_cores, tell
from bin.common.progress import Bar
from bin.common.run_data import data_of, description_of, training_records
from bin.common.weights import best, read_weights
from nptrain.data.classes import first_difference, read_classes
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.errors import InputError
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.report import history, timeline
from nptrain.report.predictions import Spread, predict
from nptrain.run import checkpoint
from nptrain.run.run_folder import RunFolder, recipe_of

MISTAKES = 25


def parser():
    p = Parser(prog="report", description=__doc__)
    p.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run (bin/train --run-dir)")
    p.add_argument("--out", metavar="FILE", help="page to write, .html (RUN/report.html)")
    p.add_argument("--data", metavar="DIR", help="LMDB of held-out images (that of the run)")
    p.add_argument("--records", metavar="N", type=int,
                   help="held-out images to evaluate, evenly spread (all); 0: none")  # fmt: skip
    p.add_argument("--smooth", metavar="N", type=int, default=20,
                   help="iterations over which the loss is averaged (%(default)s)")  # fmt: skip
    add_arguments(p.add_argument_group("kernels and cores"))
    return p


def main(argv, world):
    args = parser().parse_args(argv)
    out = check_flags(args)
    recipes = {run: recipe_of(run) for run in args.runs}
    for run, recipe in recipes.items():
        if recipe is None:
            raise InputError(f"{run}: found no run.json, expected the folder of a run")
    histories = {run: history.read(run, training_records(run)) for run in args.runs}
    timelines = {run: timeline.read(RunFolder(run).metrics) for run in args.runs}
    slow = {run: history.slow_ranks(run) for run in args.runs}

    from nptrain.report import report  # here: the import takes a second, and mistakes are reported before

    made = []
    for run, recipe in recipes.items():
        recipe, names, evaluation = evaluated(args, run, recipe, world, report.Evaluation)
        if isinstance(evaluation, str):
            tell(f"{run}: {evaluation}")
        made.append(report.Run(run, recipe, description_of(run), histories[run], timelines[run], names, evaluation,
                               slow[run]))  # fmt: skip
    report.write(out, made, args.smooth)
    print(f"{out}, and its figures in {out.with_suffix('')}/")


def check_flags(args):
    """The page's path. Raises InputError for flags that make no sense."""
    expect_at_least(args, 1, "smooth")
    expect_at_least(args, 0, "records")
    if len(set(args.runs)) < len(args.runs):
        raise InputError("RUN: found the same run twice, expected different ones")
    if args.out is None and len(args.runs) > 1:
        raise InputError(f"--out: found none for {len(args.runs)} runs, expected the page's name")
    out = Path(args.out or Path(args.runs[0]) / "report.html")
    if out.suffix != ".html":
        raise InputError(f"--out: found {out}, expected a name that ends in .html")
    if args.out and not out.absolute().parent.is_dir():
        raise InputError(f"--out: found {out}, expected a folder that exists")
    return out


def evaluated(args, run, recipe, world, evaluation):
    """(recipe with the classes of the weights, names of the classes, an `evaluation` or why there is none)."""
    saved = checkpoint.list_complete(RunFolder(run).checkpoints, [phase.name for phase in recipe.phases])
    numbers = [str(label) for label in range(recipe.classes)]  # until names are known
    if args.records == 0:
        return recipe, numbers, "no images were evaluated (--records 0)"
    if not saved:
        return recipe, numbers, "there is no checkpoint whose weights could be evaluated"
    chosen = best(RunFolder(run), lambda line: None) or saved[-1]  # the page names it
    blobs, classes = read_weights(chosen.model)
    recipe, numbers = replace(recipe, classes=classes), [str(label) for label in range(classes)]
    dataset = LmdbDataset(args.data, classes) if args.data else data_of(run, "val_data", classes)
    if dataset is None:
        return recipe, numbers, "the run's held-out images cannot be read here; --data names others"
    names = agreed_names(chosen.model, dataset.path, classes, run)
    recipe = replace(recipe, precision=args.precision or recipe.precision)
    ready = kernels_and_cores(args, world, recipe)
    network = ResNet.of(recipe, ready.ops)
    checkpoint.fill_arena(network.arena, blobs, chosen.model)
    records = Spread(dataset, args.records)
    batches = -(-len(records) // (recipe.test_batch_size or recipe.batch_size))
    found = predict(Inference(network), records, recipe, ready.cores.threads, ready.decode_initializer,
                    lambda loader: Bar(loader, batches, "batches"))  # fmt: skip
    if not np.isfinite(found.probabilities).all():
        return recipe, names, f"the scores of {chosen.model} are not finite"
    mistakes = []
    for place in found.mistakes(MISTAKES):
        own, other, probability = names[found.labels[place]], names[found.predicted[place]], found.probabilities[place]
        mistakes.append((records[place][0], f"{own} taken for {other}, {probability:.0%}"))
    return recipe, names, evaluation(chosen.model, dataset.path, len(dataset), found, mistakes)


def agreed_names(weights, data, classes, run=None):
    """The names of the classes, by the weights or else by the data; numbers for those without. Raises InputError if the
    two differ, or if the data has more classes than the weights.
    """
    own, others = names_of(weights, classes, run), read_classes(data)
    if own and others and (difference := first_difference(own, others)):
        label, name, other = difference
        raise InputError(f"{data}: class {label}: found {other}, expected {name}, as in the run of {weights}")
    if others and len(others) > classes:
        raise InputError(f"{data}: found {len(others)} classes, expected {classes}, as {weights} has")
    names = own or others or []
    return names + [str(label) for label in range(len(names), classes)]
