"""Files of weights for tests."""

from nptrain.caffe.caffe_pb2 import LayerParameter, NetParameter
from nptrain.caffe.model import write_caffemodel


def write_layers(path, name, layers):
    """Write a .caffemodel of layers that have no more than (name, type, blobs), as this project wrote them once."""
    bare = [LayerParameter(name=layer, type=kind) for layer, kind, _ in layers]
    write_caffemodel(path, NetParameter(name=name, layer=bare), layers)
