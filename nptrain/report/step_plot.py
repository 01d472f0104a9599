"""A training step as a picture: what a rank computes, and the sums over ranks in flight meanwhile."""

from matplotlib import rcParams
from matplotlib.figure import Figure

from nptrain.report import picture

COLOURS = {"data": "C5", "forward": "C0", "backward": "C1", "update": "C4", "waiting": "lightgrey"}
READY, IN_FLIGHT = "lightgreen", "darkgreen"
WIDE = 8  # inches, from which on the legend is one line


def draw(spans, sums, title, xlabel, path):
    """Draw a step, as `figure` does, into the file `path`. The format is that of the file's name."""
    picture.save(figure(spans, sums, title, xlabel), path)


def figure(spans, sums, title, xlabel, width=10):
    """A Figure, `width` inches wide, of one row of bars for `spans`, [(name, begin, end)], and below it a row for each
    of `sums`, [(label, ready, begin, end)], all in ms.
    """
    rows = 2 + len(sums)
    result = Figure(figsize=(width, 1.9 + 0.26 * rows), dpi=100, layout="constrained")
    axes, named = result.add_subplot(), {}

    def bar(row, height, begin, end, colour, name):
        drawn = axes.barh([row], [end - begin], height, left=begin, color=colour)
        named.setdefault(name, drawn)

    for name, begin, end in spans:
        bar(0.5, 1.7, begin, end, COLOURS.get(name, "C9"), name)
    for row, (_, ready, begin, end) in enumerate(sums, 2):
        bar(row, 0.8, ready, begin, READY, "ready, not sent yet")
        bar(row, 0.8, begin, end, IN_FLIGHT, "in flight")
    whole = max(end for *_, end in spans)
    named["end of the step"] = axes.axvline(whole, color=rcParams["axes.edgecolor"], linestyle="--", linewidth=1)
    axes.set(xlabel=xlabel, xlim=(0, 1.01 * whole), ylim=(rows - 0.3, -0.6),
             yticks=[0.5, *range(2, rows)], yticklabels=["compute", *(label for label, *_ in sums)])  # fmt: skip
    axes.set_title(title, fontsize="large" if width >= WIDE else "medium")
    columns = len(named) if width >= WIDE or len(named) <= 5 else 4
    result.legend(named.values(), named, loc="outside lower center", ncols=columns,
                  frameon=False, fontsize=9, handlelength=1.3, columnspacing=1.2)  # fmt: skip
    return result
