"""The layers of a net, as they are in a file of weights or in a net's text."""

from textwrap import wrap

from google.protobuf import text_format

from nptrain.caffe.caffe_pb2 import Phase
from nptrain.report.table import WIDTH

APART = ("name", "type", "bottom", "top", "phase", "blobs")  # what `described` shows beside the other fields


def described(layer):
    """The LayerParameter `layer` as a dictionary for JSON: "name", "type", "bottom", "top", "phase" (None if it has
    none), and "fields", the text of the other fields.
    """
    rest = type(layer)()
    rest.CopyFrom(layer)
    for field in APART:
        rest.ClearField(field)
    return {
        "name": _text(layer.name),
        "type": _text(layer.type),
        "bottom": [_text(name) for name in layer.bottom],
        "top": [_text(name) for name in layer.top],
        "phase": Phase.Name(layer.phase) if layer.HasField("phase") else None,
        "fields": text_format.MessageToString(rest, as_one_line=True),
    }


def _text(value):
    """A string of a message; what is not UTF-8 comes as bytes, and is escaped."""
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def layer_lines(layers):
    """The lines of a list of layers: what each reads and makes, the shapes of its blobs, and its fields."""
    for layer in layers:
        if "bottom" not in layer:
            yield f"  {layer['name']}: {layer['type'] or 'no type'}, in the form from before 2014"
            continue
        phase = f", phase {layer['phase']}" if layer["phase"] else ""
        flow = " -> ".join(", ".join(names) for names in (layer["bottom"], layer["top"]) if names)
        yield f"  {layer['name']}: {layer['type'] or 'no type'}, {flow or 'nothing read or made'}{phase}"
        blobs = ", ".join("x".join(map(str, blob["shape"])) or "scalar" for blob in layer.get("blobs", ()))
        for line in (layer["fields"], blobs and f"blobs {blobs}"):
            yield from wrap(line, WIDTH - 1, initial_indent="    ", subsequent_indent="      ")
