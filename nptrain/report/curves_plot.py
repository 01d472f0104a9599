"""The curves of runs: loss, accuracy, rate and speed. `runs` is {label: [PhaseHistory, ...]} in all functions."""

from math import log10

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from nptrain.report import picture

PALE = 0.35  # what a later phase did not start from
TOP1 = 2  # the column of a test


def smoothed(values, window):
    """The mean of each value and the window - 1 before it; of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(runs, path, window, in_epochs=False):
    """Draw losses smoothed over `window` iterations and, if a run has tests, top-1, into one picture. The format is
    that of the file's name.
    """
    tested = any(len(phase.tests) for phases in runs.values() for phase in phases)
    figure = Figure(figsize=(8, 6 if tested else 3.6), dpi=100, layout="constrained")
    top, *below = figure.subplots(1 + tested, 1, sharex=True, squeeze=False)[:, 0]
    loss(top, runs, window, in_epochs)
    top.legend(frameon=False)
    for axes in below:
        accuracy(axes, runs, in_epochs)
    if below:
        top.set(xlabel="")
    picture.save(figure, path)


def loss(axes, runs, window, in_epochs=False):
    """Training loss, smoothed, on a log scale."""
    _lines(axes, runs, 1, in_epochs, window)
    axes.set(yscale="log", ylabel=f"training loss, mean of {window}")
    low, high = axes.get_ylim()
    decades = log10(high / low)
    subs = (1, 1.5, 2, 3, 5, 7) if decades < 1.5 else (1, 3) if decades < 4 else (1,)  # labels that do not overlap
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def rate(axes, runs, in_epochs=False):
    """The learning rate."""
    _lines(axes, runs, 2, in_epochs)
    axes.set(ylabel="learning rate", ylim=(0, None))


def speed(axes, runs, window, in_epochs=False):
    """Images a second, smoothed; the first step is left out."""
    _lines(axes, runs, 3, in_epochs, window, first=1)
    axes.set(ylabel=f"images/s, mean of {window}", ylim=(0, None))


def accuracy(axes, runs, in_epochs=False):
    """Top-1 of the tests."""
    for color, phases in _coloured(runs):
        start = np.empty(0), np.empty(0)  # the test of the weights that a phase starts from
        for phase, after in _pairs(phases):
            x = np.concatenate([start[0], phase.x(phase.tests, in_epochs)])
            y = np.concatenate([start[1], 100 * phase.tests[:, TOP1]])
            parts = _parts(x, after, in_epochs)
            for part, alpha in parts:
                axes.plot(x[part], y[part], color=color, alpha=alpha, marker="o", markersize=3.5, linewidth=1.2)
            start = x[parts[0][0]][-1:], y[parts[0][0]][-1:]
    _finish(axes, runs, in_epochs)
    axes.set(ylabel="top-1 of the held-out images (%)")


def _lines(axes, runs, column, in_epochs, window=1, first=0):
    """A line for each phase of each run, of a column of its iterations."""
    for label, (color, phases) in zip(runs, _coloured(runs), strict=True):
        for phase, after in _pairs(phases):
            rows = phase.iterations[first:]
            rows = rows[~np.isnan(rows[:, column])]
            x, y = phase.x(rows, in_epochs), smoothed(rows[:, column], window)
            for part, alpha in _parts(x, after, in_epochs):
                axes.plot(x[part], y[part], color=color, alpha=alpha, linewidth=1.4, label=label)
                label = None  # named once
    _finish(axes, runs, in_epochs)


def _coloured(runs):
    """(colour, phases) of each run."""
    return [(f"C{number % 10}", phases) for number, phases in enumerate(runs.values())]


def _pairs(phases):
    """(phase, the one after it or None)."""
    return zip(phases, [*phases[1:], None], strict=True)


def _parts(x, after, in_epochs):
    """The points up to where the phase after it starts, and pale those that it did not start from."""
    if after is None:
        return [(slice(None), 1.0)]
    split = int(np.searchsorted(x, after.epoch if in_epochs else after.begin, side="right"))
    return [(slice(0, split), 1.0), (slice(max(split - 1, 0), None), PALE)]


def _finish(axes, runs, in_epochs):
    """Marks where phases begin, grid, and the name of the axis."""
    for color, phases in _coloured(runs):
        for phase in phases[1:]:
            at = phase.epoch if in_epochs else phase.begin
            axes.axvline(at, color=color if len(runs) > 1 else "grey", linestyle=":", linewidth=1.2)
            axes.annotate(f"phase {phase.name}", (at, 1), (-2, -4), xycoords=("data", "axes fraction"), ha="right",
                          va="top", textcoords="offset points", rotation=90, fontsize=8)  # fmt: skip
    axes.grid(which="major", alpha=0.3)
    axes.set(xlabel="epoch" if in_epochs else "iteration")
