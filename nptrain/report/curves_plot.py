"""The curves of runs: the loss of all iterations, smoothed, and top-1 of all tests."""

import numpy as np
from matplotlib.figure import Figure

from nptrain.report import picture
from nptrain.run import metrics
from nptrain.run.run_folder import RunFolder


def read(folder):
    """(losses, tests) of a run's metrics.jsonl, arrays of rows (updates done, loss) and (updates done, top-1); updates
    are counted through all phases. Raises InputError for a file that is missing or damaged, or has no iteration.
    """
    losses, tests, begin, at = [], [], 0, None
    for phase, iteration, loss, top1 in metrics.read(RunFolder(folder).metrics, _values):
        if phase != at:
            at, begin = phase, losses[-1][0] if losses else 0
        if top1 is None:
            losses.append((begin + iteration + 1, loss))
        else:
            tests.append((begin + iteration, top1))
    return np.array(losses), np.array(tests).reshape(-1, 2)


def _values(entry):
    """(phase, iteration, loss, None) of an iteration's entry, (phase, updates done, None, top-1) of a test's."""
    place = entry["phase"], int(entry["iteration"])
    if "loss" in entry:
        return *place, float(entry["loss"]), None
    return *place, None, np.nan if entry["top1"] is None else float(entry["top1"])  # None: a test without a result


def smoothed(values, window):
    """The mean of each value and the window - 1 before it; of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(runs, path, window):
    """Draw the curves of {label: (losses, tests)}, a colour for each run: losses smoothed over `window` iterations, on
    a log scale; below them top-1, if a run has tests. The format is that of the file's name.
    """
    tested = any(len(tests) for _, tests in runs.values())
    figure = Figure(figsize=(8, 6 if tested else 3.6), dpi=100, layout="constrained")
    top, *below = figure.subplots(1 + tested, 1, sharex=True, squeeze=False)[:, 0]
    for number, (label, (losses, tests)) in enumerate(runs.items()):
        color = f"C{number % 10}"
        top.plot(losses[:, 0], smoothed(losses[:, 1], window), color=color, linewidth=1.4, label=label)
        for axes in below:
            axes.plot(tests[:, 0], 100 * tests[:, 1], color=color, marker="o", markersize=3.5, linewidth=1.2)
    top.set(yscale="log", ylabel=f"training loss, mean of {window}")
    top.legend(frameon=False)
    for axes in below:
        axes.set(ylabel="top-1 of the held-out images (%)")
    for axes in (top, *below):
        axes.grid(which="major", alpha=0.3)
    (top, *below)[-1].set(xlabel="iteration")
    picture.save(figure, path)
