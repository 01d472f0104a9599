"""What a file contains: weights, a solver state, a mean image, an LMDB, a net or solver text, a checkpoint or a run;
safetensors or ONNX.

`summary(path)` recognises the kind of a file by its content. It returns a dictionary for JSON, with "file" and "kind";
`summary_text` makes text of it.
"""

import codecs
import json
import math
import re
from pathlib import Path

import numpy as np

from nptrain.caffe import state
from nptrain.caffe.blobs import read_blob
from nptrain.caffe.caffe_pb2 import NetParameter, SolverParameter
from nptrain.caffe.model import V1_TYPES, layers_of
from nptrain.caffe.text import parse, text_of
from nptrain.caffe.wire import I32, I64, LEN, VARINT, open_message
from nptrain.data.lmdb_dataset import expect_no_splits
from nptrain.data.lmdb_file import MAGIC
from nptrain.errors import InputError, reason
from nptrain.files import check_regular, is_safetensors, other_kind
from nptrain.inspect import exports
from nptrain.inspect.layers import described
from nptrain.inspect.lmdb import describe_lmdb
from nptrain.run.checkpoint import of_manifest, verify
from nptrain.run.manifest import read_manifest

# Of each kind of message: the wire types of its fields, and the fields of which it has at least one.
WIRE_TYPES = {
    "onnx": ({1: (VARINT,), 2: (LEN,), 3: (LEN,), 4: (LEN,), 5: (VARINT,), 6: (LEN,), 7: (LEN,), 8: (LEN,), 14: (LEN,)},
             (7,)),
    "caffemodel": ({1: (LEN,), 2: (LEN,), 3: (LEN,), 5: (VARINT,), 6: (LEN,), 7: (VARINT,), 8: (LEN,), 100: (LEN,)},
                   (2, 100)),
    "solverstate": ({number: (wire,) for number, wire in state.WIRE_TYPES.items()}, (1,)),
    "blob": ({1: (VARINT,), 2: (VARINT,), 3: (VARINT,), 4: (VARINT,), 5: (LEN, I32), 6: (LEN, I32), 7: (LEN,),
              8: (LEN, I64), 9: (LEN, I64)}, (5, 8)),
}  # fmt: skip


def summary(path, records=None, progress=lambda results, total: results, headers=False):
    """What the file or folder `path` contains. Of an LMDB, at most `records` are read and decoded, as training does;
    with `headers`, their pixels are not decoded. progress(results, total) wraps the iterator over them.

    Raises InputError for an unknown kind of file, and for a damaged one.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "lmdb":
        contents = describe_lmdb(path, records, progress, headers)
    else:
        path = path / "run.json" if path.is_dir() else path
        contents = {"bytes": path.stat().st_size, **_READERS[kind](path)}
    return {"file": str(path), "kind": contents.pop("kind", kind), **contents}


def _kind(path):
    """The kind of thing at `path`: a key of _READERS, or "lmdb"."""
    try:
        if path.is_dir():
            for name, kind in (("data.mdb", "lmdb"), ("run.json", "json")):
                if (path / name).exists():
                    return kind
            expect_no_splits(path)
            raise InputError(f"{path}: a folder without data.mdb and run.json: expected a file, an LMDB or a run")
        check_regular(path)
        with open(path, "rb") as file:
            head = file.read(4096)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    if not head:
        raise InputError(f"{path}: is empty")
    if is_safetensors(head):
        return "safetensors"
    if other := other_kind(path):
        raise InputError(f"{path}: found {other}")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "prototxt"  # whose reader says what is wrong
    if head[16:20] == MAGIC.to_bytes(4, "little"):
        return "lmdb"
    if not any(byte < 32 and byte not in b"\t\n\f\r" for byte in head):
        return "json" if head.lstrip()[:1] == b"{" else "prototxt"
    with open_message(path, "Caffe") as message:
        types = {(number, wire) for number, wire, _ in message.fields()}
    for kind, (expected, needed) in WIRE_TYPES.items():
        fits = all(wire in expected.get(number, (wire,)) for number, wire in types)
        if fits and any(number in needed for number, _ in types):
            return kind
    raise InputError(
        f"{path}: not one of Caffe's files: expected weights, a solver state, a mean image, an LMDB or a text; or "
        "safetensors or ONNX"
    )


def _blob(array):
    """Shape, dtype and L2 norm of an array; `not_finite` counts NaNs and infinities, where there are any."""
    flat, squares, finite = array.ravel(), 0.0, 0
    for at in range(0, flat.size, 1 << 20):  # a copy in float64 of all of it would be large
        part = flat[at : at + (1 << 20)]
        mask = np.isfinite(part)
        finite += int(mask.sum())
        with np.errstate(all="ignore"):
            squares += float(np.square(part[mask], dtype=np.float64).sum())
    entry = {"shape": list(array.shape), "dtype": array.dtype.name, "norm": _number(math.sqrt(squares))}
    if finite < flat.size:
        entry |= {"norm": None, "not_finite": flat.size - finite}
    return entry


def _number(value):
    return value if math.isfinite(value) else None


def _caffemodel(path):
    name, old, layers = "", False, []
    with open_message(path, "NetParameter") as net:
        for number, wire, value in net.fields():
            if number == 1 and wire == LEN:
                name = value.text()
            old |= number == 2
    for layer in layers_of(path):
        known = {"name": layer.name, "type": layer.type} if layer.parameter is None else described(layer.parameter)
        layers.append({**known, "blobs": [_blob(blob) for blob in layer.blobs]})
    return {"net": name, "format": "V1LayerParameter" if old else "LayerParameter", "layers": layers}


def _solverstate(path):
    found = state.read_solverstate(path)
    return {
        "iteration": found.iteration,
        "learned_net": found.learned_net,
        "current_step": found.current_step,
        "minimum_loss": _number(found.minimum_loss),
        "iter_last_event": found.iter_last_event,
        "history": [_blob(blob) for blob in found.history],
    }


def _mean(path):
    with open_message(path, "BlobProto") as message:
        array = read_blob(message, path)
    entry = _blob(array)
    if array.size:
        channels = array.reshape(array.shape[-3] if array.ndim > 2 else 1, -1)
        with np.errstate(all="ignore"):
            entry["channel_means"] = [_number(float(x)) for x in channels[:16].mean(axis=1, dtype=np.float64)]
    return {"blob": entry}


def _prototxt(path):
    """A net or a solver, whichever message has more of the text's fields; unknown fields are listed, not refused."""
    text = re.sub(r"\btype\s*:\s*([A-Z][A-Z0-9_]+)\b", _v1_type, text_of(path))
    parsed = [parse(text, message, path, allow_unknown=True) for message in (SolverParameter(), NetParameter())]
    message = max(parsed, key=lambda message: len(message.ListFields()))
    fields = [field.name for field, _ in message.ListFields()]
    if not fields:
        raise InputError(f"{path}: a text without any field of Caffe's solvers or nets")
    found = {"kind": message.DESCRIPTOR.name, "fields": {}}
    try:
        parse(text, type(message)(), path)
    except InputError as error:
        found["unknown"] = str(error).removeprefix(f"{path}:")
    for field, value in message.ListFields():
        if field.name == "layer":
            found["layers"] = [described(layer) for layer in value]
        elif field.name == "layers":
            found["layers"] = [
                {"name": layer.name, "type": V1_TYPES.get(layer.type, str(layer.type))} for layer in value
            ]
        elif field.message_type is None:
            names = field.enum_type and {v.number: v.name for v in field.enum_type.values}
            values = value if field.is_repeated else [value]
            values = [names[v] if names else str(v) if v in (math.inf, -math.inf) or v != v else v for v in values]
            found["fields"][field.name] = values if field.is_repeated else values[0]
        else:
            found["fields"][field.name] = "{...}"
    return found


def _v1_type(match):
    """`type: NAME` of a layer from before 2014, with its number instead of NAME: our message has numbers."""
    number = next((number for number, name in V1_TYPES.items() if name == match[1]), None)
    return match[0] if number is None else f"type: {number}"


def _json(path):
    """A checkpoint's manifest or the description of a run."""
    try:
        entry = json.loads(text_of(path), parse_float=_finite, parse_constant=_finite)
        if all(isinstance(entry.get(part), dict) for part in ("recipe", "arguments", "versions")):
            names = entry.get("classes")
            named = isinstance(names, list) and all(isinstance(name, str) for name in names)
            parts = {part: entry[part] for part in ("recipe", "arguments", "versions")}
            return {"kind": "run", **parts, "classes": names if named else None, "hosts": len(entry["hosts"])}
        if {"phase", "iteration", "files"} <= set(entry):
            sizes = {name: file["bytes"] for name, file in read_manifest(path)["files"].items()}
            return {"kind": "checkpoint", "phase": entry["phase"], "iteration": entry["iteration"],
                    "files": sizes, "damage": verify(of_manifest(path))}  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path}: neither the manifest of a checkpoint nor the description of a run")


def _safetensors(path):
    return exports.safetensors(path, _blob)


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS = {"caffemodel": _caffemodel, "solverstate": _solverstate, "blob": _mean, "prototxt": _prototxt,
            "json": _json, "safetensors": _safetensors, "onnx": exports.onnx}  # fmt: skip
