"""bin/export --onnx: ONNX Runtime computes our scores from its files."""

import json
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from commands import call
from PIL import Image
from trained import PUBLISHED, photographs, real_photographs, run_of, trained

from nptrain.network.inference import Inference
from nptrain.recipes.recipe import override

NAMES = ["ant", "bee", "cow", "Čáp", "emu", "fox", "gnu"]
CASES = [
    ["crop_size=48", "depth=18", "width=16", "first_projection=true"],
    ["crop_size=97", "depth=18", "width=16", "stem_bias=false", "scale=0.02"],
    ["crop_size=48", "bn_eps=0.001"],
    ["crop_size=64", "width=16", "stem_bias=false", "downsample=1x1"],
]


def open_session(path):
    """On one thread: those of ONNX Runtime spin, and would fight with the kernels' for the cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def inputs(recipe, pixels):
    """The pixels as a file without preprocessing takes them."""
    return ((pixels - np.float32(recipe.mean_bgr)[:, None, None]) * np.float32(recipe.scale)).astype(np.float32)


def ours(recipe, network, pixels):
    return Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))


def close(found, expected):
    return np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("changes", CASES, ids=" ".join)
def test_onnx_runtime_gives_our_scores(tmp_path, changes):
    recipe = override(PUBLISHED, ["classes=7", *changes])
    check(tmp_path, recipe, photographs(recipe.crop_size, 3))


def test_onnx_runtime_gives_our_scores_of_photographs(tmp_path):
    check(tmp_path, override(PUBLISHED, ["classes=7"]), real_photographs())


def check(tmp_path, recipe, pixels):
    network = trained(recipe, pixels)
    expected = ours(recipe, network, pixels)
    weights, plain, whole = run_of(tmp_path / "run", recipe, network), tmp_path / "p.onnx", tmp_path / "w.onnx"
    call("export", "--weights", weights, "--onnx", plain)
    call("export", "--weights", weights, "--onnx", whole, "--with-preprocessing")
    rgb = np.ascontiguousarray(pixels[:, ::-1].transpose(0, 2, 3, 1))  # as Pillow has them
    for path, name, x in ((plain, "data", inputs(recipe, pixels)), (whole, "image", rgb)):
        session = open_session(path)
        scores, probabilities = session.run(["scores", "probabilities"], {name: x})
        assert close(scores, expected)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        assert np.abs(probabilities - shares / shares.sum(1, keepdims=True)).max() < 1e-5
        (one,) = session.run(["scores"], {name: x[1:2]})  # any number of images
        assert close(one, expected[1:2])


def test_what_a_file_says_of_itself_and_opencv_reads_it(tmp_path):
    recipe = override(
        PUBLISHED, ["classes=7", "depth=18", "width=16", "crop_size=50", "test_resize=57", "mean_bgr=100,110,120"]
    )
    pixels = photographs(50, 2)
    network = trained(recipe, pixels)
    weights, path = run_of(tmp_path / "run", recipe, network, NAMES), tmp_path / "p.onnx"
    output, errors = call("export", "--weights", weights, "--onnx", path)
    assert (output, errors) == (
        f"{path}: ResNet-18 of width 16, 7 classes (ant, bee, cow, ...); data: N x 3 x 50 x 50, BGR, "
        "(pixel - mean) * 0.0078125, mean 100, 110, 120\n", "")  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(found["classes"]) == NAMES
    assert (found["network"], found["channels"], found["mean"]) == (
        "ResNet-18 of width 16",
        "BGR",
        "[100.0, 110.0, 120.0]",
    )
    assert (found["crop_size"], found["test_resize"], found["scale"]) == ("50", "57", "0.0078125")
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(inputs(recipe, pixels), "data")
    assert close(net.forward("scores"), ours(recipe, network, pixels))


def test_the_file_with_preprocessing_says_rgb(tmp_path):
    recipe = override(PUBLISHED, ["classes=5", "depth=18", "width=16", "crop_size=32", "test_resize=none"])
    weights = run_of(tmp_path / "run", recipe, trained(recipe, photographs(32, 2)))
    path = tmp_path / "p.onnx"
    output, _ = call("export", "--weights", weights, "--onnx", path, "--with-preprocessing")
    assert output == f"{path}: ResNet-18 of width 16, 5 classes; image: uint8 N x 32 x 32 x 3, RGB\n"
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (found["channels"], found["mean"], found["test_resize"]) == ("RGB", "[123.0, 117.0, 104.0]", "null")
    assert "classes" not in found
    picture = Image.fromarray(photographs(32, 1)[0, ::-1].transpose(1, 2, 0))
    open_session(path).run(None, {"image": np.asarray(picture)[None]})  # as docs/export.md has it


def test_names_from_a_file_beside_the_weights(tmp_path):
    recipe = override(PUBLISHED, ["classes=5", "depth=18", "width=16", "crop_size=32"])
    weights = run_of(tmp_path / "run", recipe, trained(recipe, photographs(32, 2)))
    (weights.parent / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    output, _ = call("export", "--weights", weights, "--prototxt", tmp_path / "d.prototxt")
    assert "5 classes (a, b, c, ...); data" in output
    (weights.parent / "classes.txt").write_text("a\nb\n")
    _, errors = call("export", "--weights", weights, "--onnx", tmp_path / "d.onnx", status=2)
    assert errors == (f"export: {weights.parent}/classes.txt: found 2 class names, expected 5, as {weights} has\n")


def test_names_of_the_training_data(tmp_path):
    recipe = override(PUBLISHED, ["classes=5", "depth=18", "width=16", "crop_size=32"])
    weights = run_of(tmp_path / "run", recipe, trained(recipe, photographs(32, 2)))
    description = json.loads((tmp_path / "run" / "run.json").read_text())
    description["arguments"] = {"train_data": str(tmp_path)}
    (tmp_path / "run" / "run.json").write_text(json.dumps(description))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    output, _ = call("export", "--weights", weights, "--prototxt", tmp_path / "d.prototxt")
    assert "5 classes (a, b, c, ...); data" in output


def test_without_the_package_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    _, errors = call("export", "--weights", "w", "--onnx", tmp_path / "x.onnx", status=2)
    assert errors.startswith("export: --onnx: the package onnx is missing: .venv/bin/pip install -r requirements-expor")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--onnx: found none, nor --safetensors, --prototxt or --model, expected one or more of them"),
        (["--onnx", "a", "--batch-size", "2"], "--batch-size: found without --prototxt or --model"),
        (["--onnx", "a", "--model", "a"], "--onnx: found a for another format, too, expected a name for each"),
        (["--onnx", "model.py", "--safetensors", "x"], "--safetensors: model.py is another file"),
        (["--onnx", "no/a"], "--onnx: no is not a folder"),
    ],
)
def test_mistakes(tmp_path, flags, line):
    _, errors = call("export", "--weights", "w", *flags, status=2, cwd=tmp_path)
    assert errors.startswith(f"export: {line}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
