"""The network as Caffe's net file: with data layers, for `caffe train`, or for inference.

Layers, names and order are those of the published train_val.prototxt.
"""

from dataclasses import replace

import numpy as np
from google.protobuf import text_format

from nptrain.caffe.caffe_pb2 import (
    TEST,
    TRAIN,
    DataParameter,
    EltwiseParameter,
    NetParameter,
    PoolingParameter,
    ResizeParameter,
)
from nptrain.caffe.text import decimal, single
from nptrain.caffe_net.blobs import fill
from nptrain.errors import InputError
from nptrain.network.layers import blocks, layers, stem, walk

SUM, MAX, AVE = EltwiseParameter.SUM, PoolingParameter.MAX, PoolingParameter.AVE


def train_val(recipe, phase, train_source, val_source=None):
    """The NetParameter that a solver of `phase` names: data from the LMDB `train_source`, in the TEST phase from
    `val_source`; without one, there is no TEST data layer. Raises InputError for what Caffe's fields cannot express.
    """
    net = NetParameter(name=recipe.architecture.name)
    _train_data(net, recipe, phase, train_source)
    if val_source is not None:
        _test_data(net, recipe, val_source)
    _Body(net, recipe, train=True).write()
    _add(net, "prob", "SoftmaxWithLoss", ["fc1000", "label"], "loss")
    for k in (1, 5):
        layer = _add(net, f"loss3/top-{k}", "Accuracy", ["fc1000", "label"], f"loss3/top-{k}")
        layer.include.add(phase=TEST)
        if k > 1:
            layer.accuracy_param.top_k = k
    return net


def deploy(recipe, batch_size=1):
    """The NetParameter for inference: `data` of (batch_size, 3, crop_size, crop_size), BGR, (pixel - mean) * scale,
    to the probabilities `prob`. Every field is known to the original Caffe.
    """
    net = NetParameter(name=recipe.architecture.name, input=["data"])
    net.input_shape.add(dim=[batch_size, 3, recipe.crop_size, recipe.crop_size])
    _Body(net, recipe, train=False).write()
    _add(net, "prob", "Softmax", ["fc1000"], "prob")
    return net


def with_phase(net, phase):
    """`net`, with the phase in each of its layers, where Caffe notes it before it writes a net with its weights."""
    for layer in net.layer:
        layer.phase = phase
    return net


def trained_net(recipe):
    """The NetParameter of a file of weights: the layers that a recipe trains, in the TRAIN phase. The Data layer has
    the preprocessing that is the same in all phases, and no source: such a file is passed on. The file's float32
    fields round what does not fit.
    """
    names = ("scale", "bn_eps", "moving_average_fraction")
    rounded = {name: _rounded(getattr(recipe, name), name) for name in names}
    mean = tuple(_rounded(value, "mean_bgr") for value in recipe.mean_bgr)
    recipe = replace(recipe, mean_bgr=mean, **rounded)
    net = NetParameter(name=recipe.architecture.name)
    _data(net, recipe, TRAIN, None, recipe.batch_size)
    _Body(net, recipe, train=True).write()
    _add(net, "prob", "SoftmaxWithLoss", ["fc1000", "label"], "loss")
    return with_phase(net, TRAIN)


def _rounded(value, name):
    return decimal(np.float32(value), name)


def to_text(net):
    """The prototxt of a net."""
    return text_format.MessageToString(net)


class _Body:
    """Writes the layers between the data and the scores; with `train`, also what only training needs."""

    def __init__(self, net, recipe, train):
        self.net, self.recipe, self.train = net, recipe, train
        table = layers(recipe.architecture, recipe.classes, recipe.blob_overrides)
        self.blobs = {layer.name: layer.blobs for layer in table}

    def write(self):
        net, recipe = self.net, self.recipe
        self.convolution(stem(recipe.architecture), "data", relu="conv1_relu")
        top = "pool1"
        pool = _add(net, top, "Pooling", ["conv1"], top).pooling_param
        pool.pool, pool.kernel_size[:], pool.stride[:] = MAX, [3], [2]
        for block in blocks(recipe.architecture):
            top = self.block(block, top)
        *_, (_, _, height) = walk(recipe.crop_size, recipe.architecture)
        pool = _add(net, "pool5", "Pooling", [top], "pool5").pooling_param
        pool.pool, pool.kernel_size[:], pool.stride[:] = AVE, [height], [1]
        classifier = _add(net, "fc1000", "InnerProduct", ["pool5"], "fc1000")
        classifier.inner_product_param.num_output = recipe.classes
        self.params(classifier, classifier.inner_product_param, "fc1000")

    def block(self, block, bottom):
        """A residual block. Returns the name of its result."""
        name = f"res{block.name}"
        shortcut, top = bottom, bottom
        if block.projection:
            shortcut = self.convolution(block.projection, bottom)
        for conv in block.branch[:-1]:
            top = self.convolution(conv, top, relu=f"{conv.name}_relu")
        top = self.convolution(block.branch[-1], top)
        _add(self.net, name, "Eltwise", [shortcut, top], name).eltwise_param.operation = SUM
        _add(self.net, f"{name}_relu", "ReLU", [name], name)
        return name

    def convolution(self, conv, bottom, relu=None):
        """A convolution, its batch norm, scale and ReLU, all in one blob. Returns its name."""
        layer = _add(self.net, conv.name, "Convolution", [bottom], conv.name)
        param = layer.convolution_param
        param.num_output, param.bias_term = conv.outputs, conv.bias
        param.pad[:], param.kernel_size[:], param.stride[:] = [conv.pad], [conv.kernel], [conv.stride]
        self.params(layer, param, conv.name)
        norm = _add(self.net, f"bn{conv.norm}", "BatchNorm", [conv.name], conv.name)
        norm.batch_norm_param.eps = single(self.recipe.bn_eps, "bn_eps")
        scale = _add(self.net, f"scale{conv.norm}", "Scale", [conv.name], conv.name)
        scale.scale_param.bias_term = True
        if self.train:
            fraction = single(self.recipe.moving_average_fraction, "moving_average_fraction")
            norm.batch_norm_param.moving_average_fraction = fraction
            for _ in range(3):
                norm.param.add(lr_mult=0)
            gamma, beta = self.blobs[scale.name]  # the fork reads their fillers in the batch norm
            fill(norm.batch_norm_param.filler, gamma)
            if (beta.std, beta.bound, beta.value) != (None, None, 0):
                fill(norm.batch_norm_param.bias_filler, beta)
            _multipliers(scale, self.blobs[scale.name])
        else:
            norm.batch_norm_param.use_global_stats = True
        if relu:
            _add(self.net, relu, "ReLU", [conv.name], conv.name)
        return conv.name

    def params(self, layer, param, name):
        """The fillers and multipliers of weights and bias."""
        if self.train:
            for filler, blob in zip((param.weight_filler, param.bias_filler), self.blobs[name], strict=False):
                fill(filler, blob)
            _multipliers(layer, self.blobs[name])


def _add(net, name, kind, bottoms, *tops):
    return net.layer.add(name=name, type=kind, bottom=bottoms, top=tops)


def _multipliers(layer, blobs):
    """A ParamSpec for each blob, unless all multipliers have the default of 1."""
    if all((blob.lr_mult, blob.decay_mult) == (1, 1) for blob in blobs):
        return
    for blob in blobs:
        spec = layer.param.add()
        for field in ("lr_mult", "decay_mult"):
            if getattr(blob, field) != 1:
                setattr(spec, field, single(getattr(blob, field), f"{layer.name}: {field}"))


def _data(net, recipe, phase, source, batch_size):
    layer = _add(net, "data", "Data", [], "data", "label")
    layer.include.add(phase=phase)
    layer.transform_param.crop_size = recipe.crop_size
    layer.transform_param.scale = single(recipe.scale, "scale")
    layer.transform_param.mean_value[:] = [single(value, "mean_bgr") for value in recipe.mean_bgr]
    layer.data_param.backend, layer.data_param.batch_size = DataParameter.LMDB, batch_size
    if source is not None:
        layer.data_param.source = str(source)
    return layer


def _train_data(net, recipe, phase, source):
    layer = _data(net, recipe, TRAIN, source, recipe.batch_of(phase))
    transform = layer.transform_param
    transform.mirror = phase.mirror
    if phase.pad:
        raise InputError(f"{phase.name}.pad: found {phase.pad}, which no field of Caffe's files holds, expected 0")
    if phase.augmentation == "random_aspect_ratio":
        if phase.resize:
            raise InputError(f"{phase.name}.resize: found {phase.resize}, expected none: random_aspect_ratio resizes")
        ratio = transform.random_aspect_ratio_param
        ratio.min_area_ratio, ratio.max_area_ratio = single(phase.min_area, f"{phase.name}.min_area"), 1
        if phase.max_attempt != 10:
            ratio.max_attempt = phase.max_attempt
        ratio.aspect_ratio_change = single(phase.aspect, f"{phase.name}.aspect")
        ratio.resize_param.interp_mode[:] = [ResizeParameter.CUBIC]
    elif phase.augmentation != "random_crop":
        raise InputError(f"{phase.name}.augmentation: found {phase.augmentation}, which no field of Caffe's files "
                         "holds, expected random_aspect_ratio or random_crop")  # fmt: skip
    elif phase.resize:
        _shorter_side(transform, phase.resize)
    layer.data_param.prefetch, layer.data_param.shuffle = phase.prefetch, phase.shuffle


def _test_data(net, recipe, source):
    transform = _data(net, recipe, TEST, source, recipe.test_batch_size or recipe.batch_size).transform_param
    transform.mirror = False
    if recipe.test_resize:
        _shorter_side(transform, recipe.test_resize)


def _shorter_side(transform, size):
    """Resize the shorter side to `size`: a range of one size, as in the published files."""
    resize = transform.random_resize_param
    resize.min_size = resize.max_size = size
    resize.resize_param.interp_mode[:] = [ResizeParameter.CUBIC]
