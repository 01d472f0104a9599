"""Tables as text, and a whole result as text of up to 80 columns: its tables, then its other values in a few lines."""

import textwrap

WIDTH = 80  # columns of all that commands print
HEADINGS = {
    "crop_size": "crop", "gflops": "GFLOP/s", "of_peak": "of peak", "images_per_s": "images/s",
    "peak_gflops": "FMA peak GFLOP/s", "memory_mb": "peak memory MB", "bandwidth": "bandwidth GB/s",
    "intensity": "FLOP/byte", "of_roof": "of roof", "ours_to_theirs": "ours/theirs",
    "step_images_per_s": "step images/s", "decode_threads": "threads", "cores": "cores for a step",
    "ms_image": "ms/image", "core_images_per_s": "a decoding core must deliver images/s",
    "bucket_mib": "bucket MiB", "bucket_ms": "bucket ms", "sum_ms": "all ms", "gb_per_s": "GB/s",
    "bus_gb_per_s": "bus GB/s", "step_ms": "step ms", "exposed_ms": "exposed ms", "waited_ms": "waited ms",
    "gradients_mb": "gradients MB", "value_bytes": "bytes a value", "alone_ms": "step without sending ms",
    "one_value_ms": "one value ms", "noise_ms": "noise ms", "best_bucket_mib": "best bucket MiB",
    "rank_images_per_s": "bin/plan --images-per-s",
}  # fmt: skip
PERCENT = {"of_peak", "of_roof", "share", "hidden", "efficiency"}


def report(result):
    """The whole result. Lists of rows are tables, everything else is in the last lines."""
    parts = [table(rows) for rows in result.values() if isinstance(rows, list)]
    values = (f"{heading(name)} {cell(name, value)}" for name, value in result.items() if not isinstance(value, list))
    unbroken = ", ".join(value.replace(" ", "\0") for value in values)  # name and value stay on one line
    lines = textwrap.wrap(unbroken, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join([*parts, "\n".join(lines).replace("\0", " ")])


def table(rows):
    """Rows (dictionaries with the same keys) in columns: words to the left, numbers to the right."""
    names = list(rows[0])
    right = [index for index, name in enumerate(names) if not isinstance(rows[0][name], str)]
    cells = [[cell(name, row[name]) for name in names] for row in rows]
    return "\n".join(columns([[heading(name) for name in names], *cells], right))


def columns(rows, right=()):
    """The lines of a table of texts, its columns two spaces apart, flush left, or flush right where `right` has their
    index.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.rjust(width) if index in right else text.ljust(width)
                 for index, (text, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        yield "  ".join(cells).rstrip()


def heading(name):
    """How a value's name is shown, with its unit."""
    return HEADINGS.get(name, name)


def cell(name, value):
    """How a value is shown; None is empty."""
    if value is None:
        return ""
    if name in PERCENT:
        return f"{value:.0%}" if name in ("of_peak", "of_roof") else f"{value:.1%}"
    if name == "error":
        return f"{value:.0e}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return str(value)
