"""Weights: Caffe's .caffemodel files."""

from dataclasses import dataclass, replace

import numpy as np
from google.protobuf.message import DecodeError

from nptrain.caffe.blobs import fill_blob, read_blob
from nptrain.caffe.caffe_pb2 import LayerParameter, NetParameter
from nptrain.caffe.wire import LEN, VARINT, WireError, open_message
from nptrain.errors import InputError
from nptrain.files import atomic_write

# The types of layers in files from before 2014, V1LayerParameter.LayerType of caffe.proto.
V1_TYPES = {
    0: "NONE", 1: "ACCURACY", 2: "BNLL", 3: "CONCAT", 4: "CONVOLUTION", 5: "DATA", 6: "DROPOUT", 7: "EUCLIDEAN_LOSS",
    8: "FLATTEN", 9: "HDF5_DATA", 10: "HDF5_OUTPUT", 11: "IM2COL", 12: "IMAGE_DATA", 13: "INFOGAIN_LOSS",
    14: "INNER_PRODUCT", 15: "LRN", 16: "MULTINOMIAL_LOGISTIC_LOSS", 17: "POOLING", 18: "RELU", 19: "SIGMOID",
    20: "SOFTMAX", 21: "SOFTMAX_LOSS", 22: "SPLIT", 23: "TANH", 24: "WINDOW_DATA", 25: "ELTWISE", 26: "POWER",
    27: "SIGMOID_CROSS_ENTROPY_LOSS", 28: "HINGE_LOSS", 29: "MEMORY_DATA", 30: "ARGMAX", 31: "THRESHOLD",
    32: "DUMMY_DATA", 33: "SLICE", 34: "MVN", 35: "ABSVAL", 36: "SILENCE", 37: "CONTRASTIVE_LOSS", 38: "EXP",
    39: "DECONVOLUTION",
}  # fmt: skip


MAX_LAYER = 1 << 16  # bytes of a layer without its blobs; those of a ResNet have about a hundred


@dataclass(frozen=True)
class Layer:
    """A layer of a .caffemodel: its `type` as the file has it, its blobs as arrays, none if it has no weights.
    `parameter` is the rest of its LayerParameter; None in a file from before 2014.
    """

    name: str
    type: str
    blobs: list[np.ndarray]
    parameter: LayerParameter | None = None


def read_caffemodel(path):
    """Read the blobs of every layer that has any: {layer name: [array, ...]}, in the order of the file.

    Arrays are float32, or float64 where the file holds doubles. Of layers with the same name the last one counts, as in
    Caffe. Raises InputError where the file is missing, damaged, larger than 2 GiB or of another kind, or where a blob's
    numbers do not fill its shape.
    """
    return {layer.name: layer.blobs for layer in layers_of(path) if layer.blobs}


def unmerged(blobs):
    """{layer: blobs} with a Scale layer beside each BatchNorm layer, as in the net file. The engine of the published
    run merges the two: a layer bnNAME then has five blobs, of which the last two, gamma and beta, are those of
    scaleNAME.
    """
    layers = {}
    for name, values in blobs.items():
        scale = f"scale{name.removeprefix('bn')}"
        if name.startswith("bn") and len(values) == 5 and scale not in blobs:
            layers[name], layers[scale] = values[:3], values[3:]
        else:
            layers[name] = values
    return layers


def layers_of(path):
    """The Layers of a .caffemodel in order, one of them in memory at a time; raises what `read_caffemodel` does.

    A file with layers in the form from before 2014 (V1LayerParameter) is read by these, even if it has others, too.
    """
    with open_message(path, "NetParameter") as net:
        new, old = [], []
        for number, wire, value in net.fields():
            if number in (1, 2, 100):
                if wire != LEN:
                    raise WireError(f"field {number} has wire type {wire}")
                (new if number == 100 else old if number == 2 else []).append(value)
        if not new and not old:
            raise InputError(f"{path}: holds no layers: not a .caffemodel file")
        for message in old or new:
            layer = _layer(message, path, *((4, 5, 6) if old else (1, 2, 7)))
            yield layer if old else replace(layer, parameter=_rest(message))


def _rest(message):
    """The LayerParameter in a wire Message, without its blobs."""
    try:
        return LayerParameter.FromString(message.without(7, MAX_LAYER))
    except DecodeError:
        raise WireError("a layer that is not a LayerParameter") from None


def _layer(message, path, name_field, type_field, blobs_field):
    """The Layer of a LayerParameter or V1LayerParameter, whose fields have these numbers."""
    name, kind, blobs = "", "", []
    for number, wire, value in message.fields():
        if number == name_field and wire == LEN:
            name = value.text()
        elif number == type_field and wire == LEN:
            kind = value.text()
        elif number == type_field and wire == VARINT:
            kind = V1_TYPES.get(value, str(value))
        elif number == blobs_field and wire == LEN:
            blobs.append(value)
        elif number in (name_field, type_field, blobs_field):
            raise WireError(f"field {number} of a layer has wire type {wire}")
    return Layer(name, kind, [read_blob(blob, f"{path}: layer {name}, blob {k}") for k, blob in enumerate(blobs)])


def write_caffemodel(path, net, layers):
    """Write what `weights_into` writes into a file, which is replaced whole or not at all."""
    with atomic_write(path) as file:
        weights_into(file, net, layers)


def weights_into(file, net, layers):
    """Write the NetParameter `net` with weights, as Caffe's Net::ToProto does: each layer whole, and its blobs in it.
    `layers` is an iterable of (name, type, blobs), float32 or float64 arrays, for layers of the net. Caffe needs more
    than the blobs: where it folds batch norm into convolutions, it finds both in the file of weights.

    Raises ValueError, before anything is written, if the net does not have a layer, or has another type.
    """
    blobs = {(name, kind): arrays for name, kind, arrays in layers}
    missing = blobs.keys() - {(layer.name, layer.type) for layer in net.layer}
    if missing:
        raise ValueError("layer {} of type {} is not in the net".format(*min(missing)))
    head = NetParameter()
    head.CopyFrom(net)
    head.ClearField("layer")
    file.write(head.SerializeToString())
    for layer in net.layer:
        # Messages written one after the other merge when read: only one layer is in memory twice.
        part = NetParameter(layer=[layer])
        for array in blobs.get((layer.name, layer.type), ()):
            fill_blob(part.layer[0].blobs.add(), array)
        file.write(part.SerializeToString())
