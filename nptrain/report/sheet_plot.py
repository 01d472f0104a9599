"""A contact sheet: images with the classes that a network sees in them, as bars."""

import math
import warnings

from matplotlib.figure import Figure

from nptrain.report import picture

MOST = 60  # images of a sheet
COLUMNS = 4
SIDE, BAR, TITLE, GAP = 2.2, 0.24, 0.3, 0.25  # inches: the square that holds an image, the height of a bar, the rest
LETTERS = 30  # of a name that fit in SIDE


def draw(cells, path):
    """Draw `cells`, (PIL image, title, [(class, probability)], the most probable first), as one picture. The format is
    that of the file's name. Raises InputError if it cannot be written.
    """
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    bars = max(len(scores) for _, _, scores in cells)
    width, height = SIDE + GAP, TITLE + SIDE + bars * BAR + GAP
    figure = Figure(figsize=(columns * width + GAP, rows * height + GAP), dpi=100)

    def axes(row, column, top, tall):
        left, bottom = GAP + column * width, figure.get_figheight() - GAP / 2 - row * height - top - tall
        box = (left, bottom, SIDE, tall)
        sizes = (figure.get_figwidth(), figure.get_figheight()) * 2
        return figure.add_axes([inches / size for inches, size in zip(box, sizes, strict=True)])

    for number, (image, title, scores) in enumerate(cells):
        row, column = divmod(number, columns)
        above = axes(row, column, TITLE, SIDE)
        above.imshow(image)
        above.set_anchor("S")  # on its bars
        above.set_axis_off()
        above.set_title(_clipped(title), fontsize=8, parse_math=False)
        _draw_bars(axes(row, column, TITLE + SIDE + 0.05, len(scores) * BAR), scores)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font does not have are drawn as boxes
        picture.save(figure, path)


def _draw_bars(axes, scores):
    """The probabilities as bars, with the names of the classes on them."""
    places = range(len(scores))
    axes.barh(places, [1] * len(scores), color="#eeeeee", height=0.84)
    axes.barh(places, [probability for _, probability in scores], color="#9cc3e6", height=0.84)
    for place, (name, probability) in zip(places, scores, strict=True):
        axes.text(0.02, place, _clipped(name), va="center", fontsize=8, parse_math=False)
        axes.text(0.98, place, f"{probability:.1%}", va="center", ha="right", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(scores) - 0.5, -0.5))
    axes.set_axis_off()


def _clipped(text):
    return text if len(text) <= LETTERS else f"{text[: LETTERS // 2 - 1]}..{text[1 - LETTERS // 2 :]}"
