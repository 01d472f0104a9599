"""A file's summary as text, 80 columns wide."""

import math
from collections import Counter

from nptrain.caffe.state import NO_LOSS
from nptrain.errors import printable
from nptrain.report.table import WIDTH, columns


def summary_text(found):
    """The lines of what nptrain/summary.py found in a file."""
    lines = [f"{found['file']}:", *_WRITERS[found["kind"]](found)]
    return "".join(f"{printable(line.rstrip(), 1000)}\n" for line in lines)


def _caffemodel(found):
    old = ", layers as before 2014" if found["format"] == "V1LayerParameter" else ""
    yield f"  weights of the net {_clip(found['net'], 50) or '(no name)'} ({_size(found)}{old})"
    rows = [("layer", "type", "blob", "", "L2 norm")]
    for layer in found["layers"]:
        for index, blob in enumerate(layer["blobs"]):
            names = (layer["name"], layer["type"]) if index == 0 else ("", "")
            rows.append((*names, *_blob(blob)))
    yield from _table(rows, (26, 18, 20, 7, 16), right=(4,))
    blobs = [blob for layer in found["layers"] for blob in layer["blobs"]]
    full = sum(bool(layer["blobs"]) for layer in found["layers"])
    yield f"  {full} of {len(found['layers'])} layers have weights: {_total(blobs)}"
    empty = Counter(layer["type"] for layer in found["layers"] if not layer["blobs"])
    if empty:
        yield from _wrap("without: ", (f"{n} {_clip(kind, 30) or '(no type)'}" for kind, n in empty.most_common()))
    twice = [name for name, n in Counter(layer["name"] for layer in found["layers"] if layer["blobs"]).items() if n > 1]
    if twice:
        yield from _wrap("more than once, the last one counts: ", (_clip(name, 30) for name in twice))


def _solverstate(found):
    iteration, step = found["iteration"], found["current_step"]
    yield f"  state of a solver after {iteration} iterations, rate step {step} ({_size(found)})"
    yield f"  weights in {_clip(found['learned_net'], 60) or '(no name)'}"
    loss, event = found["minimum_loss"], found["iter_last_event"]
    if loss != NO_LOSS:
        yield f"  plateau: least smoothed loss {loss}, last event in iteration {event}"
    rows = [("history", "blob", "", "L2 norm")]
    rows += [(str(index), *_blob(blob)) for index, blob in enumerate(found["history"])]
    yield from _table(rows, (7, 30, 7, 16), right=(0, 3))
    yield f"  {_total(found['history'])}"


def _mean(found):
    shape, dtype, norm = _blob(found["blob"])
    yield f"  one blob, as a mean image is: {shape}, {dtype}, L2 norm {norm} ({_size(found)})"
    if "channel_means" in found["blob"]:
        means = ("?" if mean is None else f"{mean:.6g}" for mean in found["blob"]["channel_means"])
        yield from _wrap("means of the channels: ", means)


def _lmdb(found):
    part = "" if found["read"] == found["records"] else f", {found['read']} of them read"
    yield f"  LMDB of {found['records']} records ({_size(found)}, {found['record_bytes']:.0f} bytes a record){part}"
    yield from _wrap("first keys: ", (_clip(key, 60) for key in found["first_keys"]))
    yield from _wrap("coding: ", (f"{kind} {n}" for kind, n in found["codings"].items()))
    yield from _wrap("channels: ", (f"{planes} in {n}" for planes, n in found["channels"].items()))
    if found["mean_size"]:
        mean = "{:.1f}x{:.1f}".format(*found["mean_size"])
        sizes = (f"{width}x{height} in {n}" for width, height, n in found["common_sizes"])
        yield from _wrap(f"width x height: {found['sizes']} different, mean {mean}; ", sizes)
    labels = found["labels"]
    if labels:
        few, many = min(labels.values()), max(labels.values())
        records = f"{few} to {many} records" if few < many else f"{few} records"
        yield f"  labels {min(labels)}..{max(labels)}: {len(labels)} classes, {records} each"
        if few < many and len(labels) <= 40:
            yield from _wrap("label: records: ", (f"{label}: {n}" for label, n in labels.items()))
    if found["bad"]:
        yield from _wrap(f"BAD RECORDS: {found['bad']}; the first: ", found["first_bad"].split(" "), " ")


def _message(found):
    what = {"SolverParameter": "text of a solver", "NetParameter": "text of a net"}[found["kind"]]
    yield f"  {what}, {found['kind']} ({_size(found)})"
    for name, value in found["fields"].items():
        value = ", ".join(map(_value, value)) if isinstance(value, list) else _value(value)
        yield f"  {name}: {_clip(value, WIDTH - 4 - len(name))}"
    if "layers" in found:
        kinds = Counter(layer["type"] for layer in found["layers"])
        yield f"  {len(found['layers'])} layers"
        yield from _wrap("", (f"{n} {_clip(kind, 30) or '(no type)'}" for kind, n in kinds.most_common()))
    if "unknown" in found:
        yield from _wrap("not known here, skipped: ", found["unknown"].split(" "), " ")


def _run(found):
    recipe, arguments = found["recipe"], found["arguments"]
    yield f"  description of a run on {found['hosts']} ranks ({_size(found)})"
    for title, entries in (("recipe", recipe), ("arguments", arguments), ("versions", found["versions"])):
        plain = {k: v for k, v in entries.items() if v is not None and not isinstance(v, (list, dict))}
        yield from _wrap(f"{title}: ", (f"{k} {_clip(_value(v), 60)}" for k, v in plain.items()))


def _checkpoint(found):
    yield f"  checkpoint of phase {_value(found['phase'])} at iteration {_value(found['iteration'])}"
    for name, size in found["files"].items():
        yield f"  {_clip(name, 60)}: {size} bytes"
    if found["damage"]:
        yield from _wrap("DAMAGED: ", found["damage"].split(" "), " ")
    else:
        yield "  its files are there, and have its checksums"


_WRITERS = {"caffemodel": _caffemodel, "solverstate": _solverstate, "blob": _mean, "lmdb": _lmdb, "run": _run,
            "checkpoint": _checkpoint, "SolverParameter": _message, "NetParameter": _message}  # fmt: skip


def _blob(blob):
    """Shape, dtype and norm of a blob as text."""
    shape = "x".join(map(str, blob["shape"])) or "scalar"
    bad = blob.get("not_finite")
    norm = f"{bad} not finite" if bad else "too large" if blob["norm"] is None else f"{blob['norm']:.6g}"
    return shape, blob["dtype"], norm


def _total(blobs):
    return f"{len(blobs)} blobs, {sum(math.prod(blob['shape']) for blob in blobs)} numbers"


def _size(found):
    size = found["bytes"]
    return f"{size} bytes" if size < 1000 else f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def _value(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _clip(text, limit):
    """`text` in one line, its middle left out beyond `limit` characters."""
    text = printable(text, 1000)
    return text if len(text) <= limit else f"{text[: limit // 2 - 1]}..{text[len(text) - limit + limit // 2 + 1 :]}"


def _table(rows, limits, right):
    """Lines of columns, none wider than its limit."""
    clipped = [[_clip(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in rows]
    return ("  " + line for line in columns(clipped, right))


def _wrap(title, items, separator=", "):
    """Items after a title, in as many lines as they take."""
    line, empty = "  " + title, True
    for item in items:
        if not empty and len(line) + len(separator) + len(item) > WIDTH - 1:
            yield line + separator
            line, empty = "    ", True
        line += item if empty else separator + item
        empty = False
    yield line
