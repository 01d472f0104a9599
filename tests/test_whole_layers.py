"""Files of weights as the original program reads them. Its default build folds batch norm into convolutions, by what
the layers in the file of weights say; a test restates its rule.
"""

from dataclasses import replace

import numpy as np
import pytest
from commands import NARROW, call
from weights import write_layers

from kernels import naive
from nptrain.caffe.caffe_pb2 import TEST, TRAIN, LayerParameter, NetParameter
from nptrain.caffe.model import layers_of, read_caffemodel, write_caffemodel
from nptrain.caffe_net.writer import deploy, trained_net, with_phase
from nptrain.inspect.summary import summary
from nptrain.network.arena import Arena
from nptrain.network.layers import DEPTHS, convolutions, layers
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.run import checkpoint

NETS = [(depth, "3x3") for depth in DEPTHS] + [(depth, "1x1") for depth in DEPTHS if DEPTHS[depth][1]]
PUBLISHED = get_recipe("resnet50-448nodes")


def small(recipe, **changes):
    return replace(recipe, classes=5, crop_size=64, workers=1, **changes)


def filled(recipe):
    """An Arena of different positive numbers, as large as statistics can be."""
    network_layers = layers(recipe.architecture, recipe.classes)
    arena = Arena(network_layers, naive)
    rng = np.random.default_rng(0)
    for array in (arena.weights, arena.statistics, arena.factors):
        array[:] = rng.uniform(0.5, 2, array.shape)
    return arena


def consumer(net, start, blob):
    """The first layer after the place `start` that reads `blob`."""
    return next(layer for layer in net.layer[start + 1 :] if blob in layer.bottom)


def folded(net):
    """{convolution: (weights, bias)} after the original's folding, from nothing but the file of weights: the layer that
    made a BatchNorm's bottom(0), the Scale layer that reads its top(0), bias_term, and eps.
    """
    made, result = {}, {}
    for place, layer in enumerate(net.layer):
        if layer.type == "BatchNorm":
            conv, scale = made[layer.bottom[0]], consumer(net, place, layer.top[0])
            assert (conv.type, scale.type) == ("Convolution", "Scale")
            assert layer.HasField("batch_norm_param")
            assert conv.convolution_param.HasField("bias_term")
            assert len(conv.blobs) == 1 + conv.convolution_param.bias_term
            weights, *bias = (np.float64(blob.data).reshape(blob.shape.dim) for blob in conv.blobs)
            mean, var, factor = (np.float64(blob.data) for blob in layer.blobs)
            gamma, beta = (np.float64(blob.data) for blob in scale.blobs)
            alpha = gamma / np.sqrt(var / factor + layer.batch_norm_param.eps)
            shift = (bias[0] if bias else 0) - mean / factor
            result[conv.name] = weights * alpha[:, None, None, None], shift * alpha + beta
        made.update(dict.fromkeys(layer.top, layer))
    return result


def check_whole(path, phase):
    """All that a layer of the original has, and its folding's results against `fold` in float64."""
    net = NetParameter.FromString(path.read_bytes())
    assert not net.layers
    made = set(net.input)
    for layer in net.layer:
        assert layer.name
        assert layer.type
        assert layer.top
        assert layer.phase == phase
        assert layer.HasField("phase")
        assert made >= set(layer.bottom), layer.name
        made |= set(layer.top)
    return net


@pytest.mark.parametrize(("depth", "downsample"), NETS)
def test_snapshots_and_exports_hold_whole_layers(tmp_path, depth, downsample):
    """All depths; those above 50 without weights, which would take long to write."""
    recipe = small(PUBLISHED, depth=depth, downsample=downsample)
    arena = filled(recipe) if depth <= 50 else None
    exported = arena.export() if arena else []
    files = {TRAIN: tmp_path / "train", TEST: tmp_path / "test"}
    for phase, net in ((TRAIN, trained_net(recipe)), (TEST, with_phase(deploy(recipe), TEST))):
        write_caffemodel(files[phase], net, exported)
        found = check_whole(files[phase], phase)
        named = {layer.name: layer for layer in found.layer}
        for conv in convolutions(recipe.architecture):
            assert list(named[conv.name].convolution_param.stride) == [conv.stride]
        expected = [(layer.name, layer.kind) for layer in layers(recipe.architecture, 5)]
        assert [(layer.name, layer.type) for layer in found.layer if (layer.name, layer.type) in expected] == expected
        if arena:
            blobs = read_caffemodel(files[phase])
            assert all(a.tobytes() == b.tobytes() for name, _, values in exported
                       for a, b in zip(blobs[name], values, strict=True))  # fmt: skip
            kernels = folded(found)
            assert kernels.keys() == {conv.name for conv in convolutions(recipe.architecture)}
    if arena:
        mean, var, factor = blobs["bn_conv1"]
        gamma, beta = blobs["scale_conv1"]
        alpha = gamma / np.sqrt(var / factor + 1e-5)
        assert np.allclose(kernels["conv1"][1], (blobs["conv1"][1] - mean / factor) * alpha + beta, rtol=1e-5)


def test_a_run_and_an_export_by_command(tmp_path, data):
    """By the commands' own way, and shown by bin/inspect --layers."""
    call("train", "--recipe", "cifar10", "--train-data", data / "train", "--run-dir", tmp_path / "run",
         "--iterations", 1, "--phase", 1, "--workers", 1, "--batch-size", 2, "--kernels", "numpy", *NARROW,
         "--set", "scale=0.017429193899782137")  # fmt: skip
    saved = tmp_path / "run" / "checkpoints" / "phase1_iter_1.caffemodel"
    call("export", "--weights", saved, "--prototxt", tmp_path / "net", "--model", tmp_path / "model.caffemodel")
    for path, phase in ((saved, TRAIN), (tmp_path / "model.caffemodel", TEST)):
        net = check_whole(path, phase)
        assert len(folded(net)) == 20
    data = NetParameter.FromString(saved.read_bytes()).layer[0]
    assert (data.type, data.transform_param.crop_size, data.data_param.source) == ("Data", 32, "")
    assert data.transform_param.scale == np.float32(0.017429193899782137)  # the file's field rounds it
    listed, _ = call("inspect", "--layers", saved)
    assert "  bn_conv1: BatchNorm, conv1 -> conv1, phase TRAIN\n" in listed
    assert "    param { lr_mult: 0" in listed
    assert "    blobs 64, 64, 1\n" in listed
    assert "  fc1000: InnerProduct, pool5 -> fc1000, phase TRAIN\n" in listed
    listed, _ = call("inspect", "--layers", tmp_path / "net")
    assert "  prob: Softmax, fc1000 -> prob\n" in listed


def test_layers_are_those_of_the_net(tmp_path):
    with pytest.raises(ValueError, match="layer conv1 of type Convolution is not in the net"):
        write_caffemodel(tmp_path / "w", NetParameter(), [("conv1", "Convolution", [])])
    assert list(tmp_path.iterdir()) == []


def test_files_without_whole_layers_still_load(tmp_path):
    recipe = small(PUBLISHED, depth=18, width=16)
    arena = filled(recipe)
    write_layers(tmp_path / "old", "ResNet", arena.export())
    network = ResNet.of(recipe, naive)
    assert checkpoint.load_caffemodel(tmp_path / "old", network.arena) == []
    assert (network.arena.weights == arena.weights).all()
    assert summary(tmp_path / "old")["layers"][0] == {
        "name": "conv1", "type": "Convolution", "bottom": [], "top": [], "phase": None, "fields": "",
        "blobs": summary(tmp_path / "old")["layers"][0]["blobs"]}  # fmt: skip


def test_a_layer_has_a_limit(tmp_path):
    """Before a parser sees it."""
    bottoms = NetParameter(name="n", layer=[LayerParameter(name="a", type="ReLU", bottom=["x" * 60] * 2000)])
    (tmp_path / "w").write_bytes(bottoms.SerializeToString())
    with pytest.raises(Exception, match="bytes apart from field 7"):
        list(layers_of(tmp_path / "w"))


def test_values_that_the_file_rounds():
    recipe = override(PUBLISHED, ["bn_eps=1.23456789012e-5", "moving_average_fraction=0.912345678912"])
    norm = trained_net(recipe).layer[2].batch_norm_param
    assert (norm.eps, norm.moving_average_fraction) == (np.float32(1.23456789012e-5), np.float32(0.912345678912))
