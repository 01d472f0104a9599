"""bin/export --safetensors, its model.py in PyTorch, and bin/convert, the way back."""

import importlib.util
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from commands import call
from PIL import Image
from safetensors import safe_open
from trained import PUBLISHED, photographs, real_photographs, run_of, trained

from kernels import naive
from nptrain.caffe.model import layers_of, read_caffemodel
from nptrain.data.augment import center_crop
from nptrain.export import torch_names, torchvision
from nptrain.export.safetensors_file import read_safetensors
from nptrain.network.inference import Inference
from nptrain.network.layers import Architecture
from nptrain.network.resnet import ResNet
from nptrain.recipes.recipe import override

DESCRIBED = ("depth", "downsample", "bn_eps", "crop_size", "test_resize", "scale", "mean")
NAMES = ["ant", "bee", "cow", "emu", "Čáp"]
CASES = [
    ["depth=18", "crop_size=48"],
    ["depth=34", "crop_size=33", "stem_bias=false", "first_projection=true", "width=32", "mean_bgr=90,100,110.5123456"],
    ["depth=50", "width=16", "crop_size=48", "bn_eps=0.001", "scale=0.02"],
    ["depth=50", "width=16", "crop_size=64", "downsample=1x1", "stem_bias=false"],
]


def exported(folder, changes, names=NAMES, pixels=None):
    """(recipe, network, pixels, its .safetensors)."""
    recipe = override(PUBLISHED, ["classes=5", "test_resize=64", *changes])
    pixels = photographs(recipe.crop_size, 3) if pixels is None else pixels
    network = trained(recipe, pixels)
    weights, path = run_of(folder / "run", recipe, network, names), folder / "net.safetensors"
    call("export", "--weights", weights, "--safetensors", path)
    return recipe, network, pixels, path


def program(path):
    """model.py beside a .safetensors, as a module."""
    spec = importlib.util.spec_from_file_location("model", path.parent / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(found, expected):
    return np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def scores_of(weights, recipe, pixels):
    """Our scores with the weights of a .caffemodel."""
    network = ResNet.of(recipe, naive)
    network.arena.load(read_caffemodel(weights), weights)
    return Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))


@pytest.mark.parametrize("changes", CASES, ids=" ".join)
def test_there_and_back_and_pytorch_gives_our_scores(tmp_path, changes):
    recipe, network, pixels, path = exported(tmp_path, changes)
    ours = Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))
    output, _ = call("convert", path, tmp_path / "back.caffemodel")
    first, second = output.splitlines()
    assert first == f"{tmp_path}/back.caffemodel: {recipe.architecture.name}, 5 classes (ant, bee, cow, ...)"
    assert (tmp_path / "classes.txt").read_text() == "".join(f"{name}\n" for name in NAMES)
    again = override(PUBLISHED, [word for word in second.split() if "=" in word] + ["classes=5"])
    assert again == recipe  # the flags that were printed make the same preprocessing
    assert same(scores_of(tmp_path / "back.caffemodel", again, pixels), ours)
    data = next(layer.parameter for layer in layers_of(tmp_path / "back.caffemodel")).transform_param
    assert (data.crop_size, list(data.mean_value)) == (recipe.crop_size, pytest.approx(recipe.mean_bgr))
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = program(path)
    found, description = model.load(path)
    picture = Image.fromarray(photographs(90, 1)[0, ::-1].transpose(1, 2, 0))
    x = torch.stack([model.preprocess(picture, description)])
    by_hand = center_crop(picture, recipe.crop_size, 64)
    expected = (by_hand - np.float32(recipe.mean_bgr)[:, None, None]) * np.float32(recipe.scale)
    assert np.abs(x.numpy()[0, ::-1] - expected).max() < 1e-5
    x = (pixels - np.float32(recipe.mean_bgr)[:, None, None]) * np.float32(recipe.scale)
    with torch.inference_mode():
        assert same(found(torch.from_numpy(x[:, ::-1].copy())).numpy(), ours)


def test_pytorch_gives_our_scores_of_photographs(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    recipe, network, pixels, path = exported(tmp_path, ["test_resize=256"], pixels=real_photographs())
    x = (pixels - np.float32(recipe.mean_bgr)[:, None, None]) * np.float32(recipe.scale)
    with torch.inference_mode():
        found = program(path).load(path)[0](torch.from_numpy(x[:, ::-1].copy())).numpy()
    assert same(found, Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale)))


def test_the_library_reads_what_was_written(tmp_path):
    _, network, _, path = exported(tmp_path, ["depth=18", "width=16", "crop_size=32"])
    found = safetensors.numpy.load_file(path)
    blobs = {name: values for name, _, values in network.arena.export()}
    assert (found["conv1.weight"] == blobs["conv1"][0][:, ::-1]).all()
    assert (found["layer2.1.bn2.weight"] == blobs["scale3b_branch2b"][0]).all()
    mean, var, factor = blobs["bn5a_branch1"]
    assert factor[0] > 1
    assert found["layer4.0.downsample.1.running_var"] == pytest.approx(var / factor)
    assert found["layer4.0.downsample.1.running_mean"] == pytest.approx(mean / factor)
    assert (found["fc.bias"] == blobs["fc1000"][1]).all()
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == NAMES
    assert (metadata["channels"], metadata["mean"], metadata["test_resize"]) == ("RGB", "[123.0, 117.0, 104.0]", "64")
    output, _ = call("export", "--weights", tmp_path / "run/checkpoints/w.caffemodel",
                     "--safetensors", tmp_path / "again.safetensors")  # fmt: skip
    assert output.splitlines()[1] == f"{tmp_path}/model.py: the network in PyTorch: model.load('again.safetensors')"
    (tmp_path / "model.py").write_text("mine")
    _, errors = call("export", "--weights", tmp_path / "run/checkpoints/w.caffemodel",
                     "--safetensors", tmp_path / "third.safetensors", status=2)  # fmt: skip
    assert errors.startswith(f"export: --safetensors: {tmp_path}/model.py is another file")


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 1e-3), ("float64", 0), ("bfloat16", 8e-3)])
def test_other_numbers_are_read(tmp_path, dtype, largest):
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    if dtype == "bfloat16":
        ml_dtypes = pytest.importorskip("ml_dtypes")
        dtype = ml_dtypes.bfloat16
    counter = np.int64([3])
    safetensors.numpy.save_file({"x": values.astype(dtype), "counter": counter}, tmp_path / "f")
    found, metadata = read_safetensors(tmp_path / "f")
    assert (list(found), metadata) == (["x"], {})
    assert (np.abs(found["x"] - values) <= largest * np.abs(values)).all()


def torchvision_file(path, depth=18, **more):
    """The tensors of an untrained torchvision ResNet of five classes, as its state_dict has them."""
    recipe = override(PUBLISHED, ["classes=5", f"depth={depth}", "crop_size=64", "stem_bias=false"])
    network = trained(recipe, photographs(64, 3))
    blobs = {name: values for name, _, values in network.arena.export()}
    tensors = torch_names.to_torch(blobs, Architecture(depth, stem_bias=False))
    counters = {name.replace("running_mean", "num_batches_tracked"): np.array(7)
                for name in tensors if "running_mean" in name}  # fmt: skip
    safetensors.numpy.save_file({**{n: t.copy() for n, t in tensors.items()}, **counters, **more}, path)
    return tensors


def test_torchvision_s_weights(tmp_path):
    tensors = torchvision_file(tmp_path / "tv.safetensors")
    output, _ = call("convert", "--torchvision", tmp_path / "tv.safetensors", tmp_path / "tv.caffemodel")
    _, second, third = output.splitlines()
    assert second.endswith("--set depth=18 --set stem_bias=false --set mean_bgr=103.53,116.28,123.675")
    assert third == torchvision.DIFFERENCE
    recipe = override(PUBLISHED, [word for word in second.split() if "=" in word])
    # a first convolution of theirs and of ours on the same pixels, without padding
    pixels = photographs(16, 1)[0]
    theirs = ((pixels[::-1].transpose(1, 2, 0) / 255 - torchvision.MEAN) / torchvision.STD).transpose(2, 0, 1)
    expected = (tensors["conv1.weight"] * theirs[:, 3:10, 4:11]).sum((1, 2, 3))
    ours = (pixels - np.reshape(recipe.mean_bgr, (3, 1, 1))) * recipe.scale
    weights = read_caffemodel(tmp_path / "tv.caffemodel")["conv1"][0]
    assert (weights * ours[:, 3:10, 4:11]).sum((1, 2, 3)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_what_is_not_torchvision_s_is_said(tmp_path):
    path, target = tmp_path / "tv.safetensors", tmp_path / "out.caffemodel"
    torchvision_file(path)
    _, errors = call("convert", path, target, status=2)
    assert errors == (f"convert: {path}: found no depth in its metadata, so its preprocessing is not known; if the "
                      "weights are torchvision's, add --torchvision\n")  # fmt: skip
    *_, ours = exported(tmp_path, ["depth=18", "width=16", "crop_size=32"])
    _, errors = call("convert", "--torchvision", ours, target, status=2)
    assert errors == f"convert: --torchvision: found a file of bin/export, {ours}: leave the flag out\n"
    torchvision_file(path, extra=np.ones(2, np.float32))
    _, errors = call("convert", "--torchvision", path, target, status=2)
    assert errors == f"convert: {path}: found a tensor extra, which a ResNet-18 does not have\n"
    torchvision_file(path, **{"layer1.0.conv1.weight": np.ones((128, 64, 3, 3), np.float32)})
    _, errors = call("convert", "--torchvision", path, target, status=2)
    assert errors == (f"convert: {path}: layer res2a_branch2a blob 0 has shape (128, 64, 3, 3), "
                      "expected (64, 64, 3, 3)\n")  # fmt: skip
    torchvision_file(path, **{"fc.bias": np.array(1, np.float32)})
    _, errors = call("convert", "--torchvision", path, target, status=2)
    assert errors == f"convert: {path}: layer fc1000 blob 0 has shape (5, 512), expected (1, 512)\n"
    torchvision_file(path, **{"conv1.weight": np.ones((64, 1, 7, 7), np.float32)})  # of grey images
    call("convert", "--torchvision", path, target, status=2)
    safetensors.numpy.save_file({"x": np.ones(3)}, path)
    _, errors = call("convert", "--torchvision", path, target, status=2)
    assert errors.startswith(f"convert: {path}: found no ResNet-18, 34, 50, 101, 152 with torchvision's names")
    target.write_bytes(b"")
    _, errors = call("convert", path, target, status=2)
    assert errors == f"convert: {target}: exists already: remove it or choose another name\n"


def test_a_header_whose_length_looks_like_a_pickle(tmp_path):
    text = json.dumps({"x": entry()}).encode().ljust(0x80)
    (tmp_path / "f").write_bytes(as_file(text, bytes(8)))
    assert read_safetensors(tmp_path / "f")[0]["x"].tolist() == [0, 0]


def as_file(header, numbers=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_metadata_that_do_not_fit(tmp_path):
    *_, path = exported(tmp_path, ["depth=18", "width=16", "crop_size=32"])
    tensors, metadata = safetensors.numpy.load_file(path), read_safetensors(path)[1]
    for change, line in (
        ({"mean": "[1, 2]"}, "metadata: mean_bgr: found (2.0, 1.0), expected "),
        ({"depth": "34"}, "metadata: found depth 34, expected 18, as the tensors have\n"),
        ({"classes": '["a"]'}, "found 1 class names in its metadata, expected 5\n"),
        ({"classes": "5"}, "metadata: damaged, expected what bin/export writes\n"),
    ):
        safetensors.numpy.save_file(tensors, path, metadata | change)
        _, errors = call("convert", path, tmp_path / "out.caffemodel", status=2)
        assert errors.startswith(f"convert: {path}: {line}")
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"PK\x03\x04 a zip", "found a pickle of PyTorch, which is never loaded, as it may run any code; in Python: "),
        (b"\x80\x02 a pickle", "found a pickle of PyTorch"),
        (b"", "not a safetensors file, or cut off"),
        (b"<html> a page of a site, which is not what was wanted", "not a safetensors file, or cut off"),
        (as_file({"x": entry()}, bytes(8))[:-1], "damaged: its tensors are not the 7 bytes after the header"),
        (as_file({"x": entry()}, bytes(9)), "damaged: its tensors are not the 9 bytes after the header"),
        (as_file({"x": entry(), "y": entry((1,), (4, 8))}, bytes(8)), "damaged: its tensors are not the 8 bytes"),
        (as_file(b"[1]"), "not a safetensors file: its header is not JSON"),
        (as_file(b"[" * 100_000), "not a safetensors file: its header is not JSON"),
        (as_file({"x": entry((3,))}, bytes(8)), "tensor x: damaged: its type, shape and size do not agree"),
        (as_file({"x": entry((-2,), (0, -8))}), "tensor x: damaged"),
        (as_file({"x": entry(dtype=["F32"])}, bytes(8)), "tensor x: damaged"),
        (as_file({"x": 7}), "tensor x: damaged"),
        (as_file({"__metadata__": {"a": 1}}), "__metadata__: expected texts by name"),
        (as_file({"__metadata__": dict.fromkeys(DESCRIBED, "[")}), "metadata: damaged, expected what bin/export"),
        (as_file({"__metadata__": dict.fromkeys(DESCRIBED, '"x"')}), "metadata: --set depth: found 'x', expected a"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, content, line):
    path = tmp_path / "f.safetensors"
    path.write_bytes(content)
    _, errors = call("convert", path, tmp_path / "out.caffemodel", status=2)
    assert errors.startswith(f"convert: {path}: {line}")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
