"""Deploy nets: written by bin/export, loaded by OpenCV, with our own scores."""

import cv2
import numpy as np
import pytest
from commands import call
from google.protobuf import text_format
from PIL import Image
from trained import PUBLISHED, photographs, real_photographs, run_of, trained

from kernels import naive
from nptrain.caffe.caffe_pb2 import NetParameter
from nptrain.caffe.model import read_caffemodel
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.recipes.recipe import override


def exported(tmp_path, recipe, network, *flags):
    """The files that bin/export writes of a network's weights in a run's folder: (deploy net, weights)."""
    weights = run_of(tmp_path / "run", recipe, network)
    files = tmp_path / "deploy.prototxt", tmp_path / "deploy.caffemodel"
    output, _ = call("export", "--weights", weights, "--prototxt", files[0], "--model", files[1], *flags)
    assert f"{recipe.classes} classes" in output
    found, expected = read_caffemodel(files[1]), read_caffemodel(weights)
    assert list(found) == list(expected)
    assert all((a == b).all() for name in found for a, b in zip(found[name], expected[name], strict=True))
    return files


def opencv(files, x):
    """(scores, probabilities) by OpenCV."""
    net = cv2.dnn.readNetFromCaffe(*map(str, files))
    net.setInput(x, "data")
    return net.forward(["fc1000", "prob"])


def check(tmp_path, recipe, pixels):
    network = trained(recipe, pixels)
    files = exported(tmp_path, recipe, network, "--batch-size", len(pixels))
    x = (pixels.astype(np.float32) - np.float32(recipe.mean_bgr)[:, None, None]) * np.float32(recipe.scale)
    scores, probabilities = opencv(files, x)
    ours = Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))
    plain = ResNet.of(recipe, naive)
    plain.arena.load(read_caffemodel(files[1]), "the exported weights")
    reference = Inference(plain)(x[:1])
    assert 0.3 < probabilities.max() < 0.9999  # neither all alike nor saturated
    assert np.ptp(scores, axis=0).max() > 0.01  # nor the same for every image
    assert np.abs(scores - ours).max() < 1e-4 * np.abs(ours).max()
    assert np.abs(scores[:1] - reference).max() < 1e-4 * np.abs(ours).max()
    expected = np.exp(ours - ours.max(1, keepdims=True))
    assert np.abs(probabilities - expected / expected.sum(1, keepdims=True)).max() < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        ["crop_size=96"],  # pool1 goes from 48 to 24 in Caffe's ceil mode
        ["crop_size=64", "width=16", "downsample=1x1", "bn_eps=0.001"],
        ["crop_size=97", "depth=18", "width=16", "scale=0.02"],
    ],
)
def test_opencv_gives_our_scores(tmp_path, changes):
    recipe = override(PUBLISHED, ["classes=7", *changes])
    check(tmp_path, recipe, photographs(recipe.crop_size, 3))


def test_opencv_gives_our_scores_of_photographs(tmp_path):
    check(tmp_path, override(PUBLISHED, ["classes=10"]), real_photographs())


def test_opencv_s_own_preprocessing(tmp_path):
    """As docs/caffe.md has it: blobFromImage of an image as OpenCV reads it."""
    recipe = override(PUBLISHED, ["classes=7", "crop_size=64", "depth=18", "width=16", "test_resize=64"])
    pixels = photographs(64, 2)
    network = trained(recipe, pixels)
    files = exported(tmp_path, recipe, network)
    Image.fromarray(pixels[1, ::-1].transpose(1, 2, 0)).save(tmp_path / "image.png")
    read = cv2.imread(str(tmp_path / "image.png"))
    scores, _ = opencv(files, cv2.dnn.blobFromImage(read, 0.0078125, (64, 64), (104, 117, 123)))
    ours = Inference(network)(network.pack_images(pixels[1:], recipe.mean_bgr, recipe.scale))
    assert np.abs(scores - ours).max() < 1e-4 * np.abs(ours).max()


def test_without_weights(tmp_path):
    path = tmp_path / "deploy.prototxt"
    output, _ = call("export", "--recipe", "digits", "--classes", 3, "--batch-size", 5, "--prototxt", path)
    assert output == (
        f"{path}: ResNet-50, 3 classes; data: 5 x 3 x 32 x 32, BGR, (pixel - mean) * 0.0078125, mean 104, 117, 123\n"
    )
    net = text_format.Parse(path.read_text(), NetParameter())
    assert (list(net.input), list(net.input_shape[0].dim)) == (["data"], [5, 3, 32, 32])
    assert net.layer[-2].inner_product_param.num_output == 3
    assert not any(layer.param for layer in net.layer)
    _, errors = call("export", "--recipe", "digits", "--prototxt", path, status=2)
    assert errors == f"export: --prototxt: {path} exists already: remove it or choose another name\n"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--weights: found none, nor --recipe or --solver, expected one of them"),
        (["--recipe", "digits", "--onnx", "m"], "--onnx: found without --weights"),
        (["--recipe", "digits", "--safetensors", "m"], "--safetensors: found without --weights"),
        (["--recipe", "digits", "--with-preprocessing"], "--with-preprocessing: found without --onnx"),
        (["--recipe", "digits", "--model", "m"], "--model: found without --weights"),
        (["--recipe", "digits", "--batch-size", "0"], "--batch-size: found 0, expected 1 or more"),
        (["--recipe", "digits", "--solver", "s"], "--solver: found together with --recipe, expected one of them"),
        (["--recipe", "digit"], "--recipe: found 'digit', expected one of"),
        (["--weights", "nowhere"], "nowhere: cannot be read: No such file"),
    ],
)
def test_mistakes(tmp_path, flags, line):
    _, errors = call("export", "--prototxt", tmp_path / "new.prototxt", *flags, status=2)
    assert errors.startswith(f"export: {line}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
