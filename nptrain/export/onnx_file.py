"""A network as an ONNX file (onnx.ai), for inference. Needs the package of requirements-export.txt."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nptrain.files import atomic_write

OPSET, IR_VERSION = 13, 7  # those of ONNX 1.8, of 2020


def write_onnx(path, infer, recipe, description, preprocessing=False):
    """Write an Inference that was made with the kernels `naive`.

    infer          its batch norms are folded into the convolutions
    description    {name: text}, the file's metadata_props
    preprocessing  the input is `image`, uint8 (N, crop_size, crop_size, 3), R, G, B, as an image is in memory; else
                   it is `data`, float32 (N, 3, crop_size, crop_size), B, G, R, (pixel - mean) * scale

    N is any number. The outputs, both (N, classes), are `scores` and `probabilities`. The file is replaced whole or
    not at all; raises OSError.
    """
    graph, size = _Graph(), recipe.crop_size
    if preprocessing:
        source = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, size, 3])
        data = graph.preprocess("image", recipe.mean_bgr, recipe.scale)
    else:
        source = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, size, size])
        data = "data"
    graph.network(infer, data)
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", recipe.classes])
               for name in ("scores", "probabilities")]  # fmt: skip
    whole = helper.make_graph(graph.nodes, description["network"], [source], results, graph.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                              producer_name="nptrain")  # fmt: skip
    helper.set_model_props(model, description)
    onnx.checker.check_model(model)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


class _Graph:
    """The nodes of a graph, in order, and their constants. Each node has one result, of the node's own name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, kind, name, *inputs, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def preprocess(self, image, mean_bgr, scale):
        mean = self.constant("mean", np.float32(mean_bgr).reshape(1, 3, 1, 1))
        planes = self.add("Transpose", "planes", image, perm=[0, 3, 1, 2])
        bgr = self.add("Gather", "bgr", planes, self.constant("channels", np.int64([2, 1, 0])), axis=1)
        x = self.add("Sub", "centred", self.add("Cast", "pixels", bgr, to=TensorProto.FLOAT), mean)
        return self.add("Mul", "data", x, self.constant("scale", np.float32(scale)))

    def network(self, infer, x):
        x = self.convolve(infer.stem, x)
        x = self.add("MaxPool", "pool1", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        for branch, projection in infer.blocks:
            shortcut = x if projection is None else self.convolve(projection, x, relu=False)
            for layer in branch[:-1]:
                x = self.convolve(layer, x)
            block, _, _ = branch[0][0].name.partition("_")  # res2a
            x = self.add("Add", f"{block}_sum", shortcut, self.convolve(branch[-1], x, relu=False))
            x = self.add("Relu", block, x)
        weights, bias, classes = infer.classifier
        x = self.add("Flatten", "features", self.add("GlobalAveragePool", "pool5", x))
        weights = self.constant("fc1000_weights", weights.reshape(classes, -1))
        x = self.add("Gemm", "scores", x, weights, self.constant("fc1000_bias", bias), transB=1)
        self.add("Softmax", "probabilities", x, axis=1)

    def convolve(self, folded, x, relu=True):
        conv = folded.conv
        names = self.constant(f"{conv.name}_weights", folded.weights), self.constant(f"{conv.name}_bias", folded.bias)
        x = self.add("Conv", conv.name, x, *names, kernel_shape=[conv.kernel] * 2, strides=[conv.stride] * 2,
                     pads=[conv.pad] * 4)  # fmt: skip
        return self.add("Relu", f"{conv.name}_relu", x) if relu else x
