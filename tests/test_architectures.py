"""Networks that are built in other ways than the recipe's: each is what its net file says, forward, backward and in
fast kernels.
"""

from dataclasses import replace

import numpy as np
import pytest
from caffe_forward import forward
from google.protobuf import text_format
from tensors import check_convolution

from kernels import fast, naive
from nptrain.bench.shapes import inputs_of_convolutions
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.caffe_net.net import understand
from nptrain.caffe_net.writer import train_val, trained_net
from nptrain.errors import InputError
from nptrain.network.arena import Arena
from nptrain.network.inference import Inference
from nptrain.network.layers import Architecture, blocks, convolutions, layers
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.recipes.schedule import Progress
from nptrain.run import checkpoint
from tests import caffe_net

RECIPE = override(get_recipe("resnet50-448nodes"), ["classes=5", "downsample=1x1"])
SIZE, LABELS = 64, np.array([0, 4, 2])
OTHERS = [  # a kind of network, and a layer of it that the recipe's has not, or has in another way
    ({"downsample": "1x1", "width": 16}, "res3a_branch2a"),
    ({"depth": 18, "stem_bias": False, "first_projection": True, "width": 32}, "res2a_branch1"),
]
KINDS = [{}, *(kind for kind, _ in OTHERS), {"depth": 34, "stem_bias": False, "width": 48}]


def filled(ops, dtype, **kind):
    """A network with the recipe's weights, but random gamma and beta: no branch is hidden."""
    network = ResNet(ops, 5, Architecture(**kind), dtype=dtype)
    network.arena.initialise(seed=1)
    rng = np.random.default_rng(2)
    for parameter in network.arena.parameters:
        if parameter.kind == "Scale":
            parameter.w[...] = ops.pack_vector(rng.uniform(0.5, 1.5, parameter.blob.shape))
    return network


def images():
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 200, (len(LABELS), 3, 8, 8)).repeat(SIZE // 8, 2).repeat(SIZE // 8, 3)
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)


def test_where_the_stride_is():
    for downsample, strided in (("3x3", "branch2b"), ("1x1", "branch2a")):
        names = [conv.name for conv in convolutions(Architecture(50, downsample)) if conv.stride == 2]
        assert names == ["conv1", *(f"res{k}a_{b}" for k in (3, 4, 5) for b in ("branch1", strided))]
    assert list(blocks(Architecture(18, "1x1"))) == list(blocks(Architecture(18)))
    with pytest.raises(InputError, match="downsample: found 1x1, expected 3x3: the blocks of depth 18"):
        override(RECIPE, ["depth=18"])
    with pytest.raises(InputError, match="downsample: found 2x2, expected one of 3x3, 1x1"):
        override(RECIPE, ["downsample=2x2"])


def test_a_narrow_network_has_the_same_layers_with_fewer_channels():
    narrow, wide = (list(convolutions(Architecture(50, width=width))) for width in (16, 64))
    for one, other in zip(narrow, wide, strict=True):
        assert other == replace(one, inputs=3 if one.is_stem else 4 * one.inputs, outputs=4 * one.outputs)
    assert (Architecture(50).name, Architecture(18, width=16).name) == ("ResNet-50", "ResNet-18 of width 16")
    for width in (0, 24):
        with pytest.raises(InputError, match=f"width: found {width}, expected a multiple of 16"):
            override(RECIPE, [f"width={width}"])


def test_conv1_without_a_bias_and_a_projection_where_none_is_needed():
    kind = Architecture(34, stem_bias=False, first_projection=True)
    table = {layer.name: [blob.shape for blob in layer.blobs] for layer in layers(kind, 5)}
    assert table["conv1"] == [(64, 3, 7, 7)]
    assert table["res2a_branch1"] == [(64, 64, 1, 1)]
    assert list(blocks(Architecture(34)))[1:] == list(blocks(kind))[1:]
    with pytest.raises(InputError, match="first_projection: found True, expected false: the first block of depth 50"):
        override(RECIPE, ["first_projection=true"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_net_file_says_which_network_it_is(kind):
    if kind.get("depth") == 34:
        pytest.skip("the independent text has no depth 34")
    net = text_format.Parse(caffe_net.train_val(**kind), NetParameter())
    found = understand(net, "net")
    assert (found.architecture, found.blob_overrides) == (Architecture(**kind), ())


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_its_own_net_file_and_snapshot(kind, tmp_path):
    recipe = replace(get_recipe("resnet50-448nodes"), classes=5, **kind)
    net = understand(train_val(recipe, recipe.phases[0], "train", "val"), "net")
    assert net.architecture == recipe.architecture
    arena, again = (Arena(layers(recipe.architecture, 5), naive) for _ in range(2))
    for array in (arena.weights, arena.statistics, arena.history):
        array[:] = np.random.default_rng(1).normal(size=array.shape)
    saved = checkpoint.save(tmp_path, "1", 1, arena, trained_net(recipe), Progress())
    checkpoint.load(saved, again)
    for name in ("weights", "statistics", "history"):
        assert (getattr(again, name) == getattr(arena, name)).all()
    if kind.get("stem_bias", True):
        return
    with pytest.raises(InputError, match="conv1"):
        checkpoint.load_caffemodel(saved.model, Arena(layers(replace(recipe.architecture, stem_bias=True), 5), naive))


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_network_is_what_the_net_file_says(kind):
    text = caffe_net.train_val(val=None, classes=5, crop=SIZE, **kind)
    net = text_format.Parse(text, NetParameter())
    network = filled(naive, np.float64, **kind)
    x = network.pack_images(images(), RECIPE.mean_bgr, RECIPE.scale)
    blobs = {name: blobs for name, _, blobs in network.arena.export()}
    expected = forward(net, blobs, {"data": x, "label": LABELS})
    loss, scores = network.forward(x, LABELS)
    assert scores == pytest.approx(expected["fc1000"], rel=1e-9, abs=1e-9)
    assert loss == pytest.approx(expected["loss"], rel=1e-9)


@pytest.mark.parametrize(("kind", "other"), OTHERS)
def test_gradients_by_differences(kind, other):
    network = filled(naive, np.float64, **kind)
    arena, x = network.arena, network.pack_images(images(), RECIPE.mean_bgr, RECIPE.scale)
    network.forward(x, LABELS)
    network.backward()
    for name in (other, "scale2a_branch2a"):
        parameter = arena.of(name)[0]
        w, dw = parameter.w.copy(), parameter.dw.copy()
        direction = dw / np.sqrt((dw**2).sum())
        losses = []
        for step in (-2, -1, 1, 2):
            parameter.w[...] = w + step * 5e-8 * direction
            losses.append(network.forward(x, LABELS)[0])
        parameter.w[...] = w
        slope = (losses[0] - 8 * losses[1] + 8 * losses[2] - losses[3]) / (12 * 5e-8)
        assert float((dw * direction).sum()) == pytest.approx(slope, rel=1e-6), name


def test_the_fast_kernels_on_its_shapes():
    """Those that the recipe's network has not."""
    at = {conv.name: height for conv, height in inputs_of_convolutions(224)}
    of_recipe = set(convolutions())
    for conv in convolutions(Architecture(50, "1x1")):
        if conv not in of_recipe and conv.kernel == 1:
            height = at[conv.name]
            check_convolution((2, conv.inputs, conv.outputs, height, height, 1, conv.stride, 0))


@pytest.mark.parametrize(("kind", "other"), OTHERS)
def test_the_fast_network_is_the_naive_one(kind, other):
    """Scores in training and in evaluation, and gradients on both sides of a stride."""
    found = []
    for ops, dtype in ((naive, np.float64), (fast, np.float32)):
        network = filled(ops, dtype, **kind)
        x = network.pack_images(images(), RECIPE.mean_bgr, RECIPE.scale)
        _, scores = network.forward(x, LABELS)
        network.backward()
        arena = network.arena
        names = ("conv1", "res2b_branch2b", "res3a_branch1", other, "res5a_branch2a", "fc1000")
        gradients = [arena.unpack(arena.of(name)[0].dw, arena.of(name)[0].blob.shape) for name in names]
        arena.blend_statistics(0.95, 1, 1)
        found.append([scores, Inference(network)(x), *gradients])
    for exact, got in zip(*found, strict=True):
        assert np.linalg.norm(got - exact) < 1e-3 * np.linalg.norm(exact)
