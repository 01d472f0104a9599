"""What a file for other programs contains: safetensors, or ONNX."""

from nptrain.caffe.wire import LEN, open_message
from nptrain.export.safetensors_file import read_safetensors

# numbers of fields in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
PRODUCER, GRAPH, METADATA = 2, 7, 14  # of a ModelProto
NODE, INITIALIZER = 1, 5  # of a GraphProto
OPERATOR = 4  # of a NodeProto
KEY, VALUE = 1, 2  # of a StringStringEntryProto


def safetensors(path, describe):
    """The metadata of a safetensors file, and its tensors by describe(array)."""
    tensors, metadata = read_safetensors(path)
    return {"metadata": metadata, "tensors": [{"name": name, **describe(array)} for name, array in tensors.items()]}


def onnx(path):
    """The producer and the metadata of an ONNX file, the operators of its graph, and the number of its arrays."""
    with open_message(path, "ONNX") as model:
        graph = [part for graph in _parts(model, GRAPH) for part in graph.fields()]
        nodes = [part for number, wire, part in graph if (number, wire) == (NODE, LEN)]
        entries = [[_text(entry, KEY), _text(entry, VALUE)] for entry in _parts(model, METADATA)]
        return {"producer": _text(model, PRODUCER), "metadata": dict(entries),
                "operators": [_text(node, OPERATOR) for node in nodes],
                "arrays": sum(number == INITIALIZER for number, _, _ in graph)}  # fmt: skip


def _parts(message, number):
    return (value for found, wire, value in message.fields() if (found, wire) == (number, LEN))


def _text(message, number):
    return "".join(part.bytes().decode(errors="backslashreplace") for part in _parts(message, number))
