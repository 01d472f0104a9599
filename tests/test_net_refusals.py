"""Single mutations of the published net: each is refused with a line that names layer and field."""

import re

import pytest
from google.protobuf import text_format

from nptrain.caffe.caffe_pb2 import LayerParameter, NetParameter
from nptrain.caffe_net.net import understand
from nptrain.errors import InputError
from tests import caffe_net

# (layer, lines that are merged into it, what the refusal says); data: the TRAIN layer, test: the TEST layer
FIELDS = [
    ("res2a_branch2b", "convolution_param { kernel_size: 5 }", "convolution_param.kernel_size: found 5x5, expected 3x"),
    ("res3a_branch2b", "convolution_param { stride: 1 }", "convolution_param.stride: found 1x1, expected 2x2"),
    ("res3a_branch2a", "convolution_param { stride: 2 }", "convolution_param.stride: found 2x2, expected 1x1"),
    ("conv1", "convolution_param { pad: 2 }", "convolution_param.pad: found 2x2, expected 3x3"),
    ("conv1", "convolution_param { num_output: 24 }", "num_output: found 24, expected a multiple of 16"),
    ("conv1", "convolution_param { kernel_h: 7 }", "convolution_param.kernel_size: found together with kernel_h"),
    ("res2a_branch1", "convolution_param { bias_term: true }", "bias_term: found true, expected false"),
    ("res4f_branch2c", "convolution_param { num_output: 512 }", "num_output: found 512, expected 1024"),
    ("res4f_branch2c", "convolution_param { group: 2 }", "group: found 2, expected 1"),
    ("res4f_branch2b", "convolution_param { dilation: 2 }", "dilation: found 2, expected none"),
    ("res4f_branch2b", "convolution_param { relu: true }", "relu: found true, expected false"),
    ("res4f_branch2b", "convolution_param { axis: 2 }", "axis: found 2, expected 1"),
    ("res4f_branch2b", 'convolution_param { weight_filler { type: "bilinear" } }', "weight_filler: type: found 'bilin"),
    ("res4f_branch2b", "convolution_param { weight_filler { sparse: 3 } }", "weight_filler: sparse: found 3"),
    ("fc1000", "inner_product_param { weight_filler { scale: 5 } }", "weight_filler: scale: found 5, expected 1"),
    ("scale4f_branch2b", "scale_param { num_axes: 2 }", "scale_param.num_axes: found 2, expected 1"),
    ("loss3/top-1", "loss_weight: 1", "loss_weight: found [1.0], expected none"),
    ("fc1000", "inner_product_param { weight_filler { mean: 1 } }", "weight_filler: mean: found 1, expected 0"),
    ("bn4f_branch2b", "batch_norm_param { eps: 0.001 }", "batch_norm_param.eps: found 0.001, expected 1e-05, as in bn"),
    ("bn4f_branch2b", "batch_norm_param { moving_average_fraction: 0.9 }", "moving_average_fraction: found 0.9"),
    ("bn4f_branch2b", "batch_norm_param { use_global_stats: true }", "found true in the TRAIN phase, expected none:"),
    ("bn4f_branch2b", "batch_norm_param { use_global_stats: false }", "found false in the TEST phase, expected none:"),
    ("bn4f_branch2b", "batch_norm_param { stats_batch_size: 8 }", "stats_batch_size: found 8, expected 0"),
    ("bn4f_branch2b", "batch_norm_param { relu: true }", "batch_norm_param.relu: found true, expected false"),
    ("bn4f_branch2b", "param { lr_mult: 1 }", "param: found 4 of them, expected at most 3"),
    ("scale4f_branch2b", "param { lr_mult: 1 }", "param: found 3 of them, expected at most 2"),
    ("scale4f_branch2b", "scale_param { bias_term: false }", "scale_param.bias_term: found false, expected true"),
    ("scale4f_branch2b", "scale_param { axis: 0 }", "scale_param.axis: found 0, expected 1"),
    ("scale4f_branch2b", "scale_param { filler { value: 0 } }", "filler: found a different one, expected that"),
    ("conv1", 'param { name: "shared" }', "param.name: found shared, expected none"),
    ("conv1", "param { lr_mult: -1 }", "param: found -1, expected 0 or more"),
    ("res2a_relu", "relu_param { negative_slope: 0.1 }", "relu_param.negative_slope: found 0.1, expected 0"),
    ("pool1", "pooling_param { pool: AVE }", "pooling_param.pool: found AVE, expected MAX"),
    ("pool1", "pooling_param { pad: 1 }", "pooling_param.pad: found 1x1, expected 0x0"),
    ("pool1", "pooling_param { kernel_size: 2 }", "pooling_param.kernel_size: found 2x2, expected 3x3"),
    ("pool1", "pooling_param { global_pooling: true }", "pooling_param.global_pooling: found true, expected false"),
    ("pool5", "pooling_param { pool: MAX }", "pooling_param.pool: found MAX, expected AVE"),
    ("pool5", "pooling_param { kernel_size: 6 }", "pooling_param.kernel_size: found 6x6, expected 7x7"),
    ("res2a", "eltwise_param { operation: PROD }", "eltwise_param.operation: found PROD, expected SUM"),
    ("res2a", "eltwise_param { coeff: [1, 0.5] }", "eltwise_param.coeff: found 1.0x0.5, expected none"),
    ("res2a", 'bottom: "pool1"', "bottom: found res2a_branch1, res2a_branch2c, pool1, expected what"),
    ("res2a", 'top: "again"', "top: found res2a, again, expected 1 names"),
    ("fc1000", "inner_product_param { transpose: true }", "inner_product_param.transpose: found true, expected false"),
    ("fc1000", "inner_product_param { bias_term: false }", "inner_product_param.bias_term: found false, expected true"),
    ("fc1000", 'name: "fc10"', "name: found fc10, expected fc1000, the name of its weights"),
    ("res2a_branch1", 'name: "mine"', "name: found mine, expected res2a_branch1"),
    ("res2a_branch1", 'type: "Deconvolution"', "type: found Deconvolution, expected Convolution"),
    ("res2a_branch1", "propagate_down: false", "propagate_down: found [False], expected none"),
    ("res2a_branch1", "loss_weight: 1", "loss_weight: found [1.0], expected none"),
    ("res2a_branch1", "pooling_param { }", "pooling_param: found a value, expected none"),
    ("res2a_branch1", "phase: TRAIN", "phase: found 0, expected none"),
    ("res2a_branch1", 'include { stage: "deploy" }', "include.stage: found a value, expected phase alone"),
    ("res2a_branch1", "exclude { min_level: 1 }", "exclude.min_level: found a value, expected phase alone"),
    ("data", "exclude { phase: TEST }", "exclude: found together with include"),
    ("prob", "loss_weight: 0.5", "loss_weight: found [0.5], expected none"),
    ("prob", "loss_param { label_smoothing: 0.1 }", "loss_param.label_smoothing: found 0.1, expected 0"),
    ("prob", "loss_param { ignore_label: 0 }", "loss_param.ignore_label: found 0, expected none"),
    ("prob", "loss_param { normalization: NONE }", "loss_param.normalization: found NONE, expected VALID"),
    ("prob", "softmax_param { axis: 2 }", "softmax_param.axis: found 2, expected 1"),
    ("loss3/top-5", "accuracy_param { top_k: 3 }", "accuracy_param.top_k: found 3, expected 1 or 5"),
    ("loss3/top-5", "accuracy_param { ignore_label: 0 }", "accuracy_param.ignore_label: found 0, expected none"),
    ("data", 'type: "ImageData"', "found ImageData, expected Data, with an LMDB: bin/make_lmdb --list makes one"),
    ("data", 'type: "ReLU"', "type ReLU is the first in the TRAIN phase, expected type Data"),
    ("data", "data_param { backend: LEVELDB }", "data_param.backend: found LEVELDB, expected LMDB"),
    ("data", 'data_param { source: "" }', "data_param.source: found none, expected the folder of an LMDB"),
    ("data", "data_param { batch_size: 0 }", "data_param.batch_size: found 0, expected 1 or more"),
    ("data", "data_param { rand_skip: 5 }", "data_param.rand_skip: found 5, expected 0"),
    ("data", "data_param { mirror: true }", "data_param.mirror: found true, expected it in transform_param"),
    ("data", "data_param { scale: 0.5 }", "data_param.scale: found 0.5, expected it in transform_param"),
    ("data", 'transform_param { mean_file: "mean" }', "transform_param.mean_file: found mean, expected mean_value"),
    ("data", "transform_param { mean_value: 1 }", "transform_param.mean_value: found 4 values, expected one or three"),
    ("data", "transform_param { crop_size: 0 }", "transform_param.crop_size: found none, expected the side of"),
    ("data", "transform_param { crop_h: 224 }", "transform_param.crop_h: found 224, expected crop_size alone"),
    ("data", "transform_param { flow: true }", "transform_param.flow: found true, expected images"),
    ("data", "transform_param { force_gray: true }", "transform_param.force_gray: found true"),
    ("data", "transform_param { resize_param { } }", "resize_param: found together with random_aspect_ratio_param"),
    ("data", "transform_param { random_resize_param { } }", "found together with random_resize_param"),
    ("data", "transform_param { random_aspect_ratio_param { max_area_ratio: 0.9 } }", "max_area_ratio: found 0.9, exp"),
    ("data", "transform_param { random_aspect_ratio_param { max_attempt: 0 } }", "max_attempt: found 0, expected 1"),
    ("data", "transform_param { random_aspect_ratio_param { min_area_ratio: 0 } }", "min_area_ratio: found 0.0, expec"),
    ("data", "transform_param { random_aspect_ratio_param { resize_param { interp_mode: LINEAR } } }", "found CUBIC,"),
    ("data", "transform_param { random_aspect_ratio_param { resize_param { height: 9 width: 9 } } }", "height: found"),
    ("data", "transform_param { random_aspect_ratio_param { resize_param { prob: 0.5 } } }", "prob: found 0.5, expect"),
    ("test", "transform_param { mirror: true }", "mirror: found true in the TEST phase, expected false"),
    ("test", "transform_param { scale: 1 }", "scale: found 1, expected 0.0078125, as in the TRAIN phase"),
    ("test", "transform_param { random_resize_param { max_size: 300 } }", "max_size: found 300, expected min_size, 25"),
    ("test", "transform_param { random_resize_param { min_size: 99 max_size: 99 } }", "min_size: found 99, expected c"),
]  # fmt: skip
# lists that a merge would only lengthen
LISTS = ("kernel_size", "stride", "pad", "dilation", "loss_weight")


@pytest.fixture(scope="module")
def published():
    return text_format.Parse(caffe_net.train_val(), NetParameter())


def copy(net):
    new = NetParameter()
    new.CopyFrom(net)
    return new


def named(net, name):
    index = {"data": 0, "test": 1}.get(name)
    return net.layer[index] if index is not None else next(layer for layer in net.layer if layer.name == name)


def refusal(net):
    with pytest.raises(InputError) as caught:
        understand(net, "net.prototxt")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("net.prototxt: ")
    return line


@pytest.mark.parametrize(("name", "text", "line"), FIELDS)
def test_fields(published, name, text, line):
    net = copy(published)
    layer = named(net, name)
    change = text_format.Parse(text, LayerParameter())
    for field, value in change.ListFields():
        if field.message_type and not field.is_repeated:
            for inner, _ in value.ListFields():
                if inner.name in LISTS:
                    getattr(layer, field.name).ClearField(inner.name)
    layer.MergeFrom(change)
    found = refusal(net)
    assert line in found
    assert f"layer {layer.name}" in found


def test_running_statistics_are_not_trained(published):
    net = copy(published)
    named(net, "bn2a_branch1").param[1].lr_mult = 1
    assert refusal(net).endswith(
        "layer bn2a_branch1: param.lr_mult: found 1, expected 0: running statistics are not trained"
    )


@pytest.mark.parametrize("name", ["conv1", "bn2a_branch2b", "scale5c_branch2c", "res3b_relu", "res4e", "pool1", "pool5",
                                  "res3a_branch1", "fc1000", "prob"])  # fmt: skip
def test_a_layer_is_missing(published, name):
    net = copy(published)
    layer = named(net, name)
    for other in net.layer:  # those that read its output read its input
        other.bottom[:] = [layer.bottom[0] if bottom in layer.top else bottom for bottom in other.bottom]
    kind = layer.type
    net.layer.remove(layer)
    line = refusal(net)
    assert re.search(rf"layer \S+: (type: found .* expected {kind}|name: found|bottom: found)", line)
    if "type" in line:
        assert name in line or "after layer" in line


@pytest.mark.parametrize(
    ("after", "text", "line"),
    [
        ("pool5", 'name: "drop" type: "Dropout" bottom: "pool5" top: "pool5"', "drop: type: found Dropout, expected I"),
        ("res2a", 'name: "bn" type: "BatchNorm" bottom: "res2a" top: "res2a"', "bn: type: found BatchNorm, expected R"),
        ("prob", 'name: "more" type: "ReLU" bottom: "fc1000" top: "more"', "more: type: found ReLU, expected none aft"),
        ("prob", 'name: "none" bottom: "fc1000" top: "more"', "none: type: found none, expected none after layer p"),
        ("prob", 'name: "a" type: "Accuracy" bottom: "label" bottom: "fc1000" top: "y"', "a: bottom: found label, fc1"),
    ],
)  # fmt: skip
def test_a_layer_too_many(published, after, text, line):
    net = copy(published)
    place = list(net.layer).index(named(net, after)) + 1
    rest = list(net.layer)[place:]
    del net.layer[place:]
    net.layer.append(text_format.Parse(text, LayerParameter()))
    net.layer.extend(rest)
    assert f"layer {line}" in refusal(net)


@pytest.mark.parametrize(
    ("name", "bottom", "line"),
    [
        ("res2b", ["res2b_branch2a", "res2b_branch2c"], "what res2a_relu and scale2b_branch2c made"),
        ("res3a_branch1", ["res2b"], "found res2b, expected what res2c_relu made"),
        ("fc1000", ["res5c"], "found res5c, expected what pool5 made"),
        ("prob", ["label", "fc1000"], "found label, fc1000, expected what fc1000 and data made"),
        ("res2b_branch2a", ["nowhere"], "found 'nowhere', expected the output of a layer before it"),
    ],
)
def test_wired_differently(published, name, bottom, line):
    net = copy(published)
    named(net, name).bottom[:] = bottom
    assert f"layer {name}: bottom: " in refusal(net)
    assert line in refusal(net)


def test_blobs_overwritten(published):
    net = copy(published)
    named(net, "pool1").top[:] = ["conv1"]
    assert "layer pool1: top: found 'conv1', its own bottom, expected another name" in refusal(net)
    named(net, "pool1").top[:] = ["data"]
    assert "layer pool1: top: found 'data', which a layer before it makes, expected another name" in refusal(net)


def test_layers_in_another_order(published):
    """The momentum in a .solverstate is in the order of the layers."""
    net = copy(published)
    names = [layer.name for layer in net.layer]
    first, second = names.index("res2a_branch1"), names.index("res2a_branch2a")
    order = [*net.layer[:first], *net.layer[second : second + 4], *net.layer[first:second], *net.layer[second + 4 :]]
    other = NetParameter(name=net.name, layer=order)
    assert "layer res2a_branch2a: name: found res2a_branch2a, expected res2a_branch1" in refusal(other)


def test_the_original_release_s_own_training_file_is_for_finetuning():
    """It normalises by the running statistics while it trains, which is refused, and not by mistake overlooked."""
    net = text_format.Parse(caffe_net.train_val(downsample="1x1"), NetParameter())
    for layer in net.layer:
        if layer.type == "BatchNorm":
            layer.batch_norm_param.use_global_stats = True
    assert "layer bn_conv1: batch_norm_param.use_global_stats: found true in the TRAIN phase" in refusal(net)


@pytest.mark.parametrize(
    ("field", "value"), [("force_backward", True), ("bn_stats_batch_size", 4), ("input_dim", [1]), ("input", ["data"])]
)
def test_fields_of_the_net(published, field, value):
    net = copy(published)
    net.MergeFrom(NetParameter(**{field: value}))
    assert f"{field}: found a value, expected " in refusal(net)
