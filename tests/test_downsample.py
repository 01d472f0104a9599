"""Where the stride of a stage lies: the network is what its net file says, forward, backward and in fast kernels."""

import numpy as np
import pytest
from caffe_forward import forward
from google.protobuf import text_format
from tensors import check_convolution

from kernels import fast, naive
from nptrain.bench.shapes import inputs_of_convolutions
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.errors import InputError
from nptrain.network.inference import Inference
from nptrain.network.layers import blocks, convolutions
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from tests import caffe_net

RECIPE = override(get_recipe("resnet50-448nodes"), ["classes=5", "downsample=1x1"])
SIZE, LABELS = 64, np.array([0, 4, 2])


def filled(ops, dtype, **kind):
    """A network with the recipe's weights, but random gamma and beta: no branch is hidden."""
    network = ResNet(ops, 5, dtype=dtype, **kind)
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
        names = [conv.name for conv in convolutions(50, downsample) if conv.stride == 2]
        assert names == ["conv1", *(f"res{k}a_{b}" for k in (3, 4, 5) for b in ("branch1", strided))]
    assert list(blocks(18, "1x1")) == list(blocks(18))
    with pytest.raises(InputError, match="downsample: found 1x1, expected 3x3: the blocks of depth 18"):
        override(RECIPE, ["depth=18"])
    with pytest.raises(InputError, match="downsample: found 2x2, expected one of 3x3, 1x1"):
        override(RECIPE, ["downsample=2x2"])


@pytest.mark.parametrize("downsample", ["3x3", "1x1"])
def test_the_network_is_what_the_net_file_says(downsample):
    text = caffe_net.train_val(val=None, classes=5, crop=SIZE, downsample=downsample)
    net = text_format.Parse(text, NetParameter())
    network = filled(naive, np.float64, downsample=downsample)
    x = network.pack_images(images(), RECIPE.mean_bgr, RECIPE.scale)
    blobs = {name: blobs for name, _, blobs in network.arena.export()}
    expected = forward(net, blobs, {"data": x, "label": LABELS})
    loss, scores = network.forward(x, LABELS)
    assert scores == pytest.approx(expected["fc1000"], rel=1e-9, abs=1e-9)
    assert loss == pytest.approx(expected["loss"], rel=1e-9)


def test_gradients_by_differences():
    network = filled(naive, np.float64, downsample="1x1")
    arena, x = network.arena, network.pack_images(images(), RECIPE.mean_bgr, RECIPE.scale)
    network.forward(x, LABELS)
    network.backward()
    for name in ("res3a_branch2a", "scale2c_branch2c"):
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
    for conv in convolutions(50, "1x1"):
        if conv not in of_recipe and conv.kernel == 1:
            height = at[conv.name]
            check_convolution((2, conv.inputs, conv.outputs, height, height, 1, conv.stride, 0))


def test_the_fast_network_is_the_naive_one():
    """Scores in training and in evaluation, and gradients on both sides of a stride."""
    found = []
    for ops, dtype in ((naive, np.float64), (fast, np.float32)):
        network = filled(ops, dtype, downsample="1x1")
        x = network.pack_images(images(), RECIPE.mean_bgr, RECIPE.scale)
        _, scores = network.forward(x, LABELS)
        network.backward()
        arena = network.arena
        layers = ("conv1", "res2c_branch2c", "res3a_branch1", "res3a_branch2a", "res5a_branch2a", "fc1000")
        gradients = [arena.unpack(arena.of(name)[0].dw, arena.of(name)[0].blob.shape) for name in layers]
        arena.blend_statistics(0.95, 1, 1)
        found.append([scores, Inference(network)(x), *gradients])
    for exact, got in zip(*found, strict=True):
        assert np.linalg.norm(got - exact) < 1e-3 * np.linalg.norm(exact)
