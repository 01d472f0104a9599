"""Recipes of several cycles through bin/train, and bin/evaluate's ensembles of what they leave behind."""

import json
import shutil

import numpy as np
import pytest
from commands import NARROW, call
from images import make_dataset
from weights import write_layers

from kernels import fast, naive
from nptrain.caffe.model import read_caffemodel
from nptrain.data.augment import Transform
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.data.loader import TestLoader
from nptrain.evaluate import evaluate_members
from nptrain.network.inference import Inference
from nptrain.network.layers import Architecture
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.run.checkpoint import load_caffemodel
from nptrain.world import Solo

CYCLES = ["--recipe", "cifar10-cyclic", *NARROW, "--classes", "5", "--workers", "2", "--batch-size", "2",
          "--set", "base_lr=0.001", "--set", "warmup_iter=0", "--set", "max_iter=2"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two LMDBs of small images; val's 23 records fill no batch of 2 evenly, on no number of ranks."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "train", 20, width=36, height=34)
    make_dataset(folder / "val", 23, width=40, height=33)
    return folder


@pytest.fixture(scope="module")
def cycles(data, tmp_path_factory):
    """A run of all five phases, two iterations each."""
    folder = tmp_path_factory.mktemp("cycles") / "run"
    output, _ = call("train", *CYCLES, "--train-data", data / "train", "--run-dir", folder)
    return folder, output


@pytest.fixture(scope="module")
def collapsed(data, cycles, tmp_path_factory):
    """The collapse from the end of cyc2, in a folder of its own."""
    folder, weights = tmp_path_factory.mktemp("collapsed") / "run", snapshot(cycles[0], "cyc2")
    output, _ = call("train", *CYCLES, "--train-data", data / "train", "--run-dir", folder, "--phase", "collapse",
                    "--set", "collapse.base_lr=0.0001", "--weights", weights)  # fmt: skip
    return folder, output


def snapshot(folder, phase):
    return folder / "checkpoints" / f"phase{phase}_iter_2.caffemodel"


def members(*paths):
    return [word for path in paths for word in ("--weights", path)]


def test_each_part_starts_where_the_one_before_ends(cycles):
    folder, output = cycles
    for before, phase in (("init", "cyc1"), ("cyc1", "cyc2"), ("cyc2", "cyc3"), ("cyc3", "collapse")):
        assert f"phase {phase}: starts from the weights of phase {before} at iteration 2\n" in output
    assert len(list((folder / "checkpoints").glob("*.caffemodel"))) == 5


def test_a_collapse_from_any_snapshot(cycles, collapsed):
    folder, output = collapsed
    assert f"phase collapse: starts from the weights in {snapshot(cycles[0], 'cyc2')}\n" in output
    assert "of phase cyc3" not in output
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(e["phase"], e["iteration"], e["lr"]) for e in entries] == [
        ("collapse", 0, 0.0001), ("collapse", 1, 0.000025)]  # fmt: skip
    start, end = (read_caffemodel(snapshot(f, p))["conv1"][0] for f, p in ((cycles[0], "cyc2"), (folder, "collapse")))
    others = [read_caffemodel(snapshot(cycles[0], p))["conv1"][0] for p in ("init", "cyc1", "cyc3", "collapse")]
    assert 0 < np.linalg.norm(end - start) < min(np.linalg.norm(end - other) for other in others)


def probabilities(path, data):
    """(probabilities, labels) of the plain kernels in float64, one image at a time."""
    recipe = override(get_recipe("cifar10-cyclic"), ["depth=18", "width=16", "classes=5"])
    network = ResNet(naive, 5, Architecture(18, width=16), recipe.bn_eps, np.float64)
    load_caffemodel(path, network.arena)
    infer, found, labels = Inference(network), [], []
    dataset = LmdbDataset(data, 5)
    with TestLoader(dataset, recipe.test_transform(), 1, 0, len(dataset)) as loader:
        for batch in loader:
            scores = infer(network.pack_images(batch.images, recipe.mean_bgr, recipe.scale))[0]
            found.append(np.exp(scores) / np.exp(scores).sum())
            labels += list(batch.labels)
    return np.array(found), np.array(labels)


def expected(probabilities, labels):
    chosen = probabilities[np.arange(len(labels)), labels]
    rank = (probabilities >= chosen[:, None]).sum(axis=1)
    return {"loss": -np.log(chosen).mean(), "top1": (rank <= 1).mean()}


def test_an_ensemble_is_the_mean_of_probabilities_on_any_ranks(data, cycles, collapsed, on_ranks):
    paths = [snapshot(cycles[0], "init"), snapshot(cycles[0], "collapse"), snapshot(collapsed[0], "collapse")]
    each, (labels, *_) = zip(*(probabilities(path, data / "val") for path in paths), strict=True)
    results = []
    words = ["evaluate", *members(*paths), "--data", data / "val", "--json"]
    for output in (call(*words)[0], on_ranks(2).call(*words)):
        result = json.loads(output)
        results.append(result)
        assert result["records"] == 23
        assert [one["weights"] for one in result["members"]] == [str(path) for path in paths]
        for one, right in zip([*result["members"], result], [*each, np.mean(each, axis=0)], strict=True):
            assert "top5" not in one  # of five classes
            for name, value in expected(right, labels).items():
                assert one[name] == pytest.approx(value, rel=1e-4), name
    one, two = ([r["top1"] for r in (result, *result["members"])] for result in results)
    assert one == two
    alone, _ = call("evaluate", "--weights", paths[1], "--data", data / "val", "--json")
    assert {"weights": str(paths[1]), **json.loads(alone)} == results[0]["members"][1]


def test_the_table(data, cycles, collapsed):
    one, other = snapshot(cycles[0], "cyc1"), snapshot(cycles[0], "cyc2")
    output, _ = call("evaluate", *members(one, other), "--data", data / "val")
    head, *rows = output.splitlines()
    assert head.split() == ["23", "images", "loss", "top-1"]
    assert [row.split()[0] for row in rows] == [one.name, other.name, "ensemble"]
    assert len({len(line) for line in [head, *rows]}) == 1
    far = collapsed[0].parent / ("a long name " * 9).strip() / "checkpoints"
    far.mkdir(parents=True)
    shutil.copy(other, far)
    (far.parent / "run.json").write_text((cycles[0] / "run.json").read_text())
    output, _ = call("evaluate", *members(one, far / other.name), "--data", data / "val")
    assert max(map(len, output.splitlines())) == 80
    assert "..." in output


def test_members_that_do_not_fit_are_one_line(data, cycles, tmp_path):
    one = snapshot(cycles[0], "cyc1")
    blobs = read_caffemodel(one)
    blobs["fc1000"] = [blob[:4] for blob in blobs["fc1000"]]
    write_layers(tmp_path / "four.caffemodel", "x", [(n, "x", b) for n, b in blobs.items()])
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(one, folder / "checkpoints" / "a.caffemodel")
    other = json.loads((cycles[0] / "run.json").read_text())
    for field, (value, shown) in {"bn_eps": (0.5, "0.5, expected 1e-05"), "crop_size": (40, "40, expected 32")}.items():
        changed = {**other, "recipe": {**other["recipe"], field: value}}
        (folder / "run.json").write_text(json.dumps(changed))
        _, errors = call("evaluate", *members(one, folder / "checkpoints/a.caffemodel"), "--data", "x", status=2)
        assert f"a.caffemodel: its run has {field} {shown}, as in {one}; or give --recipe\n" in errors
    for path, line in (
        (tmp_path / "four.caffemodel", f"four.caffemodel: found 4 classes, expected 5, as in {one}"),
        (one, "more than once"),
        (one.parent / "." / ".." / one.parent.name / one.name, "more than once"),
        (tmp_path / "none.caffemodel", "none.caffemodel: cannot be read"),
    ):
        _, errors = call("evaluate", *members(one, path), "--data", data / "val", status=2)
        assert line in errors
        assert errors.count("\n") == 1


def test_a_member_that_is_not_a_number_loses(data):
    """Its probabilities make the ensemble's: no image is right, and the loss says it."""
    recipe = override(get_recipe("cifar10-cyclic"), ["depth=18", "width=16", "classes=5", "batch_size=8"])
    network = ResNet(fast, 5, Architecture(18, width=16), recipe.bn_eps)
    network.arena.initialise(0)
    good = Inference(network)
    network.bias.w[:] = np.nan
    dataset = LmdbDataset(data / "val", 5)
    results = evaluate_members([good, Inference(network)], dataset, Transform("test", 32, mirror=False), recipe,
                               Solo(), 1)  # fmt: skip
    assert np.isfinite(results[0]["loss"])
    for result in results[1:]:
        assert np.isnan(result["loss"])
        assert (result["top1"], result["top5"]) == (0, 0)
