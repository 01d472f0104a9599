"""Runs as curves: the loss of every iteration, smoothed, and top-1 of every test."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nptrain.errors import InputError


def read_metrics(folder):
    """(losses, tests) of a run's metrics.jsonl, arrays of rows (updates done, loss) and (updates done, top-1); updates
    count on from phase to phase. A last line that was cut off is passed over. Raises InputError if there is no file, or
    something else in it.
    """
    path = Path(folder) / "metrics.jsonl"
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', 'no text')}, expected the metrics of a run") from None
    losses, tests, begin, phase = [], [], 0, None
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            entry = json.loads(line)
            if entry["phase"] != phase:
                phase, begin = entry["phase"], losses[-1][0] if losses else 0
            if "loss" in entry:
                losses.append((begin + entry["iteration"] + 1, float(entry["loss"])))
            else:
                tests.append((begin + entry["iteration"], float(entry["top1"])))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: line {number}: found {line[:40]!r}, expected an iteration or a test") from None
    if not losses:
        raise InputError(f"{path}: found no iteration, expected one at least")
    return np.array(losses), np.array(tests).reshape(-1, 2)


def smoothed(values, window):
    """The mean of each value and the window - 1 before it; of fewer where there are not so many."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(runs, path, window):
    """Curves of {label: (losses, tests)}, a colour a run: losses smoothed over `window` iterations on a log scale, and
    where a run was tested its top-1 below. Writes PNG or whatever the file's name says.
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
    figure.savefig(path)
