"""A file's summary as text, 80 columns wide."""

import math
from collections import Counter

from nptrain.caffe.state import NO_LOSS
from nptrain.errors import counted, printable
from nptrain.inspect.layers import layer_lines
from nptrain.report.table import WIDTH, columns


def summary_text(summary, layers=False):
    """The lines for a result of `summary.summary`; with `layers`, also those of `layer_lines`, if it has layers."""
    lines = [f"{summary['file']}:", *_WRITERS[summary["kind"]](summary)]
    if layers:
        lines += layer_lines(summary.get("layers", ()))
    return "".join(f"{printable(line.rstrip(), 1000)}\n" for line in lines)


def _caffemodel(summary):
    old = ", layers as before 2014" if summary["format"] == "V1LayerParameter" else ""
    yield f"  weights of the net {_clip(summary['net'], 50) or '(no name)'} ({_size(summary)}{old})"
    rows = [("layer", "type", "blob", "", "L2 norm")]
    for layer in summary["layers"]:
        for index, blob in enumerate(layer["blobs"]):
            names = (layer["name"], layer["type"]) if index == 0 else ("", "")
            rows.append((*names, *_blob(blob)))
    yield from _table(rows, (26, 18, 20, 7, 16), right=(4,))
    blobs = [blob for layer in summary["layers"] for blob in layer["blobs"]]
    full = sum(bool(layer["blobs"]) for layer in summary["layers"])
    yield f"  {full} of {len(summary['layers'])} layers have weights: {_total(blobs)}"
    empty = Counter(layer["type"] for layer in summary["layers"] if not layer["blobs"])
    if empty:
        yield from _wrap("without: ", (f"{n} {_clip(kind, 30) or '(no type)'}" for kind, n in empty.most_common()))
    uses = Counter(layer["name"] for layer in summary["layers"] if layer["blobs"])
    repeated = [name for name, n in uses.items() if n > 1]
    if repeated:
        yield from _wrap("more than once, the last one counts: ", (_clip(name, 30) for name in repeated))


def _solverstate(summary):
    iteration, step = summary["iteration"], summary["current_step"]
    yield f"  state of a solver after {iteration} iterations, rate step {step} ({_size(summary)})"
    yield f"  weights in {_clip(summary['learned_net'], 60) or '(no name)'}"
    loss, event = summary["minimum_loss"], summary["iter_last_event"]
    if loss >= NO_LOSS and event:
        yield f"  iter_last_event {event}, which has no meaning: the policy was not plateau"
    elif loss != NO_LOSS:
        yield f"  plateau: least smoothed loss {loss}, last event in iteration {event}"
    rows = [("history", "blob", "", "L2 norm")]
    rows += [(str(index), *_blob(blob)) for index, blob in enumerate(summary["history"])]
    yield from _table(rows, (7, 30, 7, 16), right=(0, 3))
    yield f"  {_total(summary['history'])}"


def _mean(summary):
    shape, dtype, norm = _blob(summary["blob"])
    yield f"  one blob, such as a mean image: {shape}, {dtype}, L2 norm {norm} ({_size(summary)})"
    if "channel_means" in summary["blob"]:
        means = ("?" if mean is None else f"{mean:.6g}" for mean in summary["blob"]["channel_means"])
        yield from _wrap("means of the channels: ", means)


def _lmdb(summary):
    part = "" if summary["read"] == summary["records"] else f", {summary['read']} of them read"
    size = f"{_size(summary)}, {summary['record_bytes']:.0f} bytes a record"
    yield f"  LMDB of {counted(summary['records'], 'record')} ({size}){part}"
    yield from _wrap("first keys: ", (_clip(key, 60) for key in summary["first_keys"]))
    yield from _wrap("coding: ", (f"{kind} {n}" for kind, n in summary["codings"].items()))
    yield from _wrap("channels: ", (f"{planes} in {n}" for planes, n in summary["channels"].items()))
    if summary["mean_size"]:
        mean = "{:.1f}x{:.1f}".format(*summary["mean_size"])
        sizes = (f"{width}x{height} in {n}" for width, height, n in summary["common_sizes"])
        yield from _wrap(f"width x height: {summary['sizes']} different, mean {mean}; ", sizes)
    yield from _labels(summary["labels"], summary["classes"])
    if summary["bad"]:
        yield from _wrap(f"BAD RECORDS: {summary['bad']}; the first: ", summary["first_bad"].split(" "), " ")


def _labels(labels, names):
    """The lines about the labels {label: records}, and the names of the classes, where there are any."""
    if labels:
        few, many = min(labels.values()), max(labels.values())
        records = f"{few} to {many} records" if few < many else counted(few, "record")
        yield f"  labels {min(labels)}..{max(labels)}: {len(labels)} classes, {records} each"
    if names and len(names) <= 40:
        lines = (f"{label} {_clip(name, 40)}: {labels.get(label, 0)}" for label, name in enumerate(names))
        yield from _wrap("label and class: records: ", lines)
        return
    if labels and few < many and len(labels) <= 40:
        yield from _wrap("label: records: ", (f"{label}: {n}" for label, n in labels.items()))
    if names:
        yield from _wrap(f"{len(names)} names: ", [*(_clip(name, 40) for name in names[:5]), "..."])


def _message(summary):
    what = {"SolverParameter": "text of a solver", "NetParameter": "text of a net"}[summary["kind"]]
    yield f"  {what}, {summary['kind']} ({_size(summary)})"
    for name, value in summary["fields"].items():
        value = ", ".join(map(_value, value)) if isinstance(value, list) else _value(value)
        yield f"  {name}: {_clip(value, WIDTH - 4 - len(name))}"
    if "layers" in summary:
        kinds = Counter(layer["type"] for layer in summary["layers"])
        yield f"  {len(summary['layers'])} layers"
        yield from _wrap("", (f"{n} {_clip(kind, 30) or '(no type)'}" for kind, n in kinds.most_common()))
    if "unknown" in summary:
        yield from _wrap("not known here, skipped: ", summary["unknown"].split(" "), " ")


def _run(summary):
    recipe, arguments = summary["recipe"], summary["arguments"]
    yield f"  description of a run on {counted(summary['hosts'], 'rank')} ({_size(summary)})"
    for title, entries in (("recipe", recipe), ("arguments", arguments), ("versions", summary["versions"])):
        plain = {k: v for k, v in entries.items() if v is not None and not isinstance(v, (list, dict))}
        yield from _wrap(f"{title}: ", (f"{k} {_clip(_value(v), 60)}" for k, v in plain.items()))
    if names := summary["classes"]:
        shown = names if len(names) <= 40 else [*names[:5], "...", names[-1]]
        yield from _wrap(f"{len(names)} classes: ", (_clip(_value(name), 40) for name in shown))


def _checkpoint(summary):
    yield f"  checkpoint of phase {_value(summary['phase'])} at iteration {_value(summary['iteration'])}"
    for name, size in summary["files"].items():
        yield f"  {_clip(name, 60)}: {size} bytes"
    if summary["damage"]:
        yield from _wrap("DAMAGED: ", summary["damage"].split(" "), " ")
    else:
        yield "  its files are complete, with the manifest's checksums"


def _metadata(summary):
    texts = (f"{name} {_clip(text, 70)}" for name, text in summary["metadata"].items())
    yield from _wrap("metadata: ", texts)


def _safetensors(summary):
    yield f"  tensors in the format safetensors ({_size(summary)})"
    yield from _metadata(summary)
    rows = [("tensor", "", "", "L2 norm"), *((tensor["name"], *_blob(tensor)) for tensor in summary["tensors"])]
    yield from _table(rows, (36, 20, 7, 12), right=(3,))
    numbers = sum(math.prod(tensor["shape"]) for tensor in summary["tensors"])
    yield f"  {len(summary['tensors'])} tensors, {numbers} numbers"


def _onnx(summary):
    yield f"  ONNX, a network of {_clip(summary['producer'], 40) or '(no name)'} ({_size(summary)})"
    yield from _metadata(summary)
    yield f"  {len(summary['operators'])} operators, {summary['arrays']} arrays"
    kinds = Counter(summary["operators"])
    yield from _wrap("", (f"{n} {_clip(kind, 30) or '(no type)'}" for kind, n in kinds.most_common()))


_WRITERS = {"caffemodel": _caffemodel, "solverstate": _solverstate, "blob": _mean, "lmdb": _lmdb, "run": _run,
            "checkpoint": _checkpoint, "SolverParameter": _message, "NetParameter": _message,
            "safetensors": _safetensors, "onnx": _onnx}  # fmt: skip


def _blob(blob):
    """Shape, dtype and norm of a blob as text."""
    shape = "x".join(map(str, blob["shape"])) or "scalar"
    bad = blob.get("not_finite")
    norm = f"{bad} not finite" if bad else "too large" if blob["norm"] is None else f"{blob['norm']:.6g}"
    return shape, blob["dtype"], norm


def _total(blobs):
    return f"{len(blobs)} blobs, {sum(math.prod(blob['shape']) for blob in blobs)} numbers"


def _size(summary):
    size = summary["bytes"]
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
