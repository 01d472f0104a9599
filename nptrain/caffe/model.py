"""Weights: Caffe's .caffemodel files."""

from nptrain.caffe.blobs import blob_array, fill_blob, read_message
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.errors import InputError
from nptrain.files import atomic_write


def read_caffemodel(path):
    """Read the blobs of every layer that has any: {layer name: [array, ...]}, in the order of the file.

    Arrays are float32, or float64 where the file holds doubles. Raises InputError where the file is
    missing, damaged, of another kind or of the layer format from before 2014, or where a blob's numbers
    do not fill its shape.
    """
    net = read_message(path, NetParameter)
    if net.layers:
        raise InputError(
            f"{path}: found layers in the old format (V1LayerParameter): "
            "convert the file with Caffe's upgrade_net_proto_binary"
        )
    if not net.layer:
        raise InputError(f"{path}: holds no layers: not a .caffemodel file")
    return {
        layer.name: [blob_array(blob, f"{path}: layer {layer.name}, blob {k}") for k, blob in enumerate(layer.blobs)]
        for layer in net.layer
        if layer.blobs
    }


def write_caffemodel(path, net_name, layers):
    """Write `layers`, an iterable of (name, type, blobs), where blobs are float32 or float64 arrays.

    The file is replaced whole or not at all.
    """
    with atomic_write(path) as file:
        file.write(NetParameter(name=net_name).SerializeToString())
        for name, layer_type, blobs in layers:
            # Messages written one after the other merge when read: only one layer is in memory twice.
            net = NetParameter()
            layer = net.layer.add(name=name, type=layer_type)
            for array in blobs:
                fill_blob(layer.blobs.add(), array)
            file.write(net.SerializeToString())
