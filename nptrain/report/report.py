"""The report of one or more runs: what ran, curves, where the time went, and what the network mistakes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nptrain.recipes.recipe import Recipe
from nptrain.report import curves_plot, report_plot
from nptrain.report.history import SLOW, best_test
from nptrain.report.page import Page
from nptrain.report.predictions import Predictions
from nptrain.report.timeline import median
from nptrain.run.log import TOP5_CLASSES

PAIRS = 15  # of classes that are confused most, in the table
HOSTS = 20  # ranks in the table


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a file of weights for `predictions.labels.size` of `records` images, and the worst mistakes as
    [(PIL image, text)].
    """

    weights: Path
    data: Path
    records: int
    predictions: Predictions
    mistakes: list


@dataclass(frozen=True)
class Run:
    """A run. `names` are those of its classes; `evaluation` is an Evaluation, or says why there is none; `slow` are
    rows of `history.slow_ranks`.
    """

    label: str
    recipe: Recipe
    description: dict
    phases: list
    timelines: list
    names: list
    evaluation: Evaluation | str
    slow: list = ()


def write(path, runs, window):
    """Write the page of the Runs, with losses smoothed over `window` iterations. Raises InputError for what cannot be
    written.
    """
    page = Page(path, f"Report: {', '.join(run.label for run in runs)}")
    page.text("h1", ", ".join(run.label for run in runs))
    if len(runs) == 1:
        _summary(page, runs[0])
    _curves(page, {run.label: run.phases for run in runs}, window)
    for number, run in enumerate(runs, 1):
        prefix = f"{number}-" if len(runs) > 1 else ""
        if len(runs) > 1:
            page.text("h2", run.label)
            _summary(page, run)
        _what_ran(page, run)
        _time(page, run, prefix)
        _evaluation(page, run, prefix)
    page.save()


def _summary(page, run):
    recipe, last = run.recipe, run.phases[-1]
    network, size = recipe.architecture.name, recipe.crop_size
    page.text("p", f"{network}, {recipe.classes} classes, images of {size}×{size}; "
              f"recipe {recipe.name}: {recipe.description}", "soft")  # fmt: skip
    seconds = sum(step.duration for step in run.timelines) / 1e3
    speeds = [speed for phase in run.phases for speed in phase.iterations[:, 3]]
    numbers = {"last loss": f"{last.iterations[-1, 1]:.4g}" if len(last.iterations) else "none",
               "images/s, median": f"{np.nanmedian(speeds):.1f}", "time in steps": duration(seconds)}  # fmt: skip
    if best := best_test(run.phases):
        phase, (updates, _, top1, _) = best
        numbers = {"best top-1": f"{top1:.2%}", "after": f"phase {phase.name}, {updates:.0f} iterations"} | numbers
    page.numbers(numbers)


def _curves(page, runs, window):
    in_epochs = all(phase.epochs is not None for phases in runs.values() for phase in phases)
    page.text("h2", "Curves")
    unknown = "" if in_epochs else " The training data cannot be read here, so epochs are not known."
    page.text("p", f"A dotted line is where a phase starts. What the phase before computed after it is pale.{unknown}",
              "soft")  # fmt: skip
    with page.inside("div", "grid"):
        page.figure("loss", lambda: report_plot.curve(curves_plot.loss, runs, window, in_epochs), "Training loss")
        if any(len(phase.tests) for phases in runs.values() for phase in phases):
            page.figure("accuracy", lambda: report_plot.curve(curves_plot.accuracy, runs, in_epochs), "Accuracy")
        page.figure("rate", lambda: report_plot.curve(curves_plot.rate, runs, in_epochs), "Learning rate")
        page.figure("speed", lambda: report_plot.curve(curves_plot.speed, runs, window, in_epochs), "Throughput")


def _what_ran(page, run):
    recipe = run.recipe
    page.text("h3", "What ran where")
    rows = []
    for phase in run.phases:
        if phase.name in [each.name for each in recipe.phases]:
            own = recipe.phase(phase.name)
            epochs = "" if phase.epochs is None else f"{phase.done * phase.epochs:.3g}"
            images, start = recipe.workers * recipe.batch_of(own) * own.iter_size, own.starts_from
            rows.append((phase.name, f"{phase.done} of {own.max_iter}", epochs, images,
                         f"{own.base_lr:g}, {own.lr_policy}", f"{own.weight_decay:g}",
                         "" if start is None else f"iteration {start}"))  # fmt: skip
    page.table(rows, ("phase", "iterations", "epochs", "images a step", "rate", "weight decay", "starts from"))
    hosts = [host for host in _entry(run, "hosts", list) if isinstance(host, dict)]
    names = ("host", "rank", "cores", "threads", "workers")
    page.table([[_listed(host.get(name, "")) for name in names] for host in hosts[:HOSTS]], names)
    if len(hosts) > HOSTS:
        page.text("p", f"and {len(hosts) - HOSTS} more ranks", "soft")
    with page.inside("details", summary="tests, flags and versions"):
        shown = 5 if recipe.classes >= TOP5_CLASSES else 4
        page.table([(phase.name, f"{updates:.0f}", f"{loss:.4f}", f"{top1:.2%}", f"{top5:.2%}")[:shown]
                    for phase in run.phases for updates, loss, top1, top5 in phase.tests],
                   ("phase", "iterations", "loss", "top-1", "top-5")[:shown])  # fmt: skip
        given = _entry(run, "arguments", dict).items()
        page.table([(name, _listed(value)) for name, value in given if value not in (None, False, [])], ("flag", ""))
        page.table(_entry(run, "versions", dict).items(), ("version of", ""))


def _entry(run, name, kind):
    """A list or dictionary in run.json; an empty one if there is none."""
    found = run.description.get(name)
    return found if isinstance(found, kind) else kind()


def _listed(value):
    """[4, 5, 6] -> 4..6; ["a", "b"] -> a, b."""
    if not isinstance(value, list):
        return value
    whole = len(value) > 2 and all(isinstance(item, int) for item in value)
    if whole and value == list(range(value[0], value[-1] + 1)):
        return f"{value[0]}..{value[-1]}"
    return ", ".join(map(str, value))


def _time(page, run, prefix):
    page.text("h3", "Where the time of a step goes")
    spent = {}
    for phase in run.phases:
        times = [step.spent() for step in run.timelines if step.phase == phase.name]
        kinds = dict.fromkeys(kind for each in times for kind in each)
        spent[phase.name] = {kind: float(np.median([each.get(kind, 0.0) for each in times])) for kind in kinds}
    step = median(run.timelines)
    if len(_entry(run, "hosts", list)) == 1:
        step = step.alone()
    with page.inside("div", "grid"):
        page.figure(f"{prefix}time", lambda: report_plot.shares(spent), "Rank 0's time in a step, by phase")
        page.figure(f"{prefix}step", lambda: report_plot.timeline(step), "A step of median duration, on rank 0")
    if run.slow:
        page.text("h3", "Slow ranks")
        page.text("p", "Each is listed once, when it had needed more than 1.5 times the median for long.", "soft")
        page.table(run.slow, SLOW)


def _evaluation(page, run, prefix):
    page.text("h3", "What the network takes for what")
    found = run.evaluation
    if isinstance(found, str):
        page.text("p", found)
        return
    predictions, names = found.predictions, run.names
    matrix = predictions.confusion(len(names))
    counts, right = matrix.sum(1), np.diag(matrix)
    accuracy = right / np.maximum(counts, 1)
    total = counts.sum()
    some = "all" if total == found.records else f"{total}, evenly spread, of the"
    page.text("p", f"{found.weights} on {some} {found.records} images of {found.data}: top-1 {right.sum() / total:.2%}")
    with page.inside("div", "grid"):
        page.figure(f"{prefix}confusion", lambda: report_plot.confusion(matrix, names), "Confusion matrix")
        some = "Accuracy of each class" if (counts > 0).sum() <= report_plot.BARS else (
            f"The {report_plot.BARS} classes of lowest accuracy")  # fmt: skip
        page.figure(f"{prefix}classes", lambda: report_plot.per_class(accuracy, counts, names), some)
    wrong = matrix - np.diag(right)
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows = [(names[row], names[column], wrong[row, column], f"{wrong[row, column] / counts[row]:.1%}")
            for row, column in np.transpose(np.unravel_index(pairs, wrong.shape)) if wrong[row, column]]  # fmt: skip
    if not rows:
        page.text("p", "There is no mistake.")
        return
    with page.inside("details", summary="the classes that are confused most"):
        page.table(rows, ("class", "taken for", "images", "of the class"))
    page.text("h3", f"The {len(found.mistakes)} most confident mistakes")
    page.photographs(found.mistakes)
    page.keep(f"{prefix}mistakes", lambda: report_plot.mistakes(found.mistakes))


def duration(seconds):
    """75 -> '1 min 15 s', 3700 -> '1 h 1 min'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
