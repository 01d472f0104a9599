"""The figures of a report, all of one width, for light and for dark pages."""

import io
import textwrap

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from nptrain.report import curves_plot, step_plot

WIDTH, DPI = 7, 150  # inches; a page shows them about 560 pixels wide
LARGE, SHADES = 150_000, 64  # bytes of a picture in a page, and the colours of one that would have more
PAPER, INK, LINE = "#1b1e24", "#dfe3ea", "#8a93a3"
LIGHT = {}
DARK = {
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.edgecolor": LINE, "grid.color": LINE,
}  # fmt: skip
NUMBERS, NAMES = 15, 40  # classes up to which the table of confusions shows numbers, and names
BARS = 30  # classes whose accuracy is shown
LONGEST = 18  # characters of a class's name
LINE_LENGTH = 24  # characters below a picture
SHORTEST = 0.1  # ms that can be seen


def pictures(make):
    """The Figure that make() returns as PNGs: (for light pages, for dark ones)."""
    return tuple(_png(make, colours) for colours in (LIGHT, DARK))


def _png(make, colours):
    with rc_context(colours), io.BytesIO() as file:
        make().savefig(file, format="png", dpi=DPI)
        return file.getvalue()


def smaller(png):
    """A PNG as it is, or of SHADES colours if it is LARGE, as the table of confusions of a thousand classes is."""
    if len(png) < LARGE:
        return png
    with Image.open(io.BytesIO(png)) as picture, io.BytesIO() as file:
        picture.convert("RGB").quantize(SHADES).save(file, "PNG", optimize=True)
        return file.getvalue()


def _axes(height):
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def curve(draw, runs, *options):
    """A Figure of one of the curves of `curves_plot`, which `draw` is."""
    figure, axes = _axes(3.4)
    draw(axes, runs, *options)
    if len(runs) > 1 and draw is not curves_plot.accuracy:
        axes.legend(frameon=False, fontsize=8)
    return figure


def timeline(step):
    """A Figure of a Timeline, without the sums that took no time."""
    sent = [each for each in step.sums if each[3] - each[1] > SHORTEST]
    return step_plot.figure(step.spans, sent, step.title, "ms", WIDTH)


def shares(spent):
    """A Figure of where the time of a step goes: `spent` is {phase: {kind: ms}}."""
    figure, axes = _axes(1.3 + 0.45 * len(spent))
    kinds, rows = list(dict.fromkeys(kind for times in spent.values() for kind in times)), list(spent)
    left = np.zeros(len(rows))
    for kind in kinds:
        widths = np.array([spent[phase].get(kind, 0.0) for phase in rows])
        axes.barh(rows, widths, 0.6, left=left, color=step_plot.COLOURS.get(kind, "C9"), label=kind)
        left += widths
    axes.set(xlabel="ms of a step (median)", ylabel="phase")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=9)
    return figure


def confusion(matrix, names):
    """A Figure of a table of confusions; shades are shares of a class's images."""
    classes = len(matrix)
    figure, axes = _axes(6.2)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the class")
    axes.set(xlabel="predicted", ylabel="class")
    if classes <= NAMES:
        short = [_short(name) for name in names]
        axes.set_xticks(range(classes), short, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), short, fontsize=8)
    if classes <= NUMBERS:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    return figure


def per_class(accuracy, counts, names):
    """A Figure of the accuracy of each class, or of the BARS lowest, from the lowest."""
    order = [label for label in np.argsort(accuracy, kind="stable") if counts[label]][:BARS]
    figure, axes = _axes(1.1 + 0.22 * len(order))
    axes.barh(range(len(order)), 100 * accuracy[order], 0.7, color="C0")
    axes.set_yticks(range(len(order)), [f"{_short(names[label])} ({counts[label]})" for label in order], fontsize=8)
    axes.set(xlim=(0, 100), xlabel="top-1 (%); the number of images is in brackets")
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    return figure


def mistakes(rows):
    """A Figure of pictures: `rows` are (PIL image, text) of at most 25."""
    figure = Figure(figsize=(WIDTH, 1.85 * -(-len(rows) // 5)), layout="constrained")
    for number, (image, text) in enumerate(rows, 1):
        axes = figure.add_subplot(-(-len(rows) // 5), 5, number)
        axes.imshow(image)
        axes.set_title("\n".join(textwrap.wrap(text, LINE_LENGTH, max_lines=3)), fontsize=7)
        axes.set_axis_off()
    return figure


def _short(name):
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
