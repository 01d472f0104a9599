"""The flags that change a recipe in users' terms, a recipe from a file, and runs that start from given weights."""

import json
import shutil

import numpy as np
import pytest
from commands import NARROW, call
from images import make_dataset
from short_runs import move_snapshot

from bin.common.beginning import beginning
from bin.common.data_sets import DataSet, RunData
from nptrain.caffe.model import read_caffemodel
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.errors import InputError
from nptrain.network.layers import layers
from nptrain.recipes.changes import PARTS, frozen, with_crop, with_head_rate, with_rate
from nptrain.recipes.photos import photos
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.run.run_folder import recipe_of

PUBLISHED = get_recipe("resnet50-448nodes")
SHORT = ["--recipe", "digits", *NARROW, "--batch-size", "2", "--iterations", "1", "--phase", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data sets of five classes, and of three."""
    folder = tmp_path_factory.mktemp("chosen")
    make_dataset(folder / "five", 20, width=36, height=34)
    (folder / "five" / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    five = LmdbDataset(folder / "five")
    records = (five.datum(i) for i in range(20) if i % 5 < 3)
    write_lmdb(
        folder / "three", ((str(i), datum.SerializeToString()) for i, datum in enumerate(records)), ["x", "y", "z"]
    )
    return folder


@pytest.fixture(scope="module")
def run(folder):
    call("train", *SHORT, "--data", folder / "five", "--run-dir", folder / "run")
    return folder / "run"


def trained(folder, *words, run_dir):
    """(recipe, output) of a run of one iteration."""
    output, _ = call("train", *SHORT, *words, "--run-dir", run_dir, cwd=folder)
    return recipe_of(run_dir), output


def weights(run):
    return run / "checkpoints" / "phase1_iter_1.caffemodel"


@pytest.mark.parametrize(("crop", "resize"), [(64, 73), (224, 256), (320, 366), (32, 37)])
def test_the_resize_follows_the_crop(crop, resize):
    recipe = with_crop(PUBLISHED, crop)
    assert (recipe.crop_size, recipe.test_resize) == (crop, resize)
    assert [phase.resize for phase in recipe.phases] == [None, resize]  # random_aspect_ratio, random_crop
    assert with_crop(photos((1000, 0), 5), crop).phases[1].resize == resize
    assert with_crop(PUBLISHED, crop, 400).test_resize == 400
    small = with_crop(get_recipe("cifar10"), 40)
    assert (small.test_resize, small.phases[0].resize) == (None, None)


def test_rates_are_in_proportion():
    recipe = with_rate(PUBLISHED, 0.6)
    assert [(p.base_lr, p.warmup_start_lr) for p in recipe.phases] == [(0.6, 0.0125), (0.0318, 0.0)]
    with pytest.raises(InputError, match=r"^--lr: found 1, but the first phase has base_lr 0"):
        with_rate(override(PUBLISHED, ["base_lr=0"]), 1)


def test_parts_that_are_frozen():
    recipe = frozen(PUBLISHED, ["stem", "2"])
    rates = {layer.name: {blob.lr_mult for blob in layer.blobs}
             for layer in layers(recipe.architecture, 1000, recipe.blob_overrides)}  # fmt: skip
    still = {name for name, found in rates.items() if found == {0.0} and not name.startswith("bn")}
    assert still == {name for name in rates if name.startswith(("conv1", "scale_conv1", "res2", "scale2"))}
    assert all(found == {1.0} for name, found in rates.items() if name not in still and not name.startswith("bn"))
    everything = frozen(with_head_rate(PUBLISHED, 10), PARTS)
    rates = {layer.name: {blob.lr_mult for blob in layer.blobs}
             for layer in layers(everything.architecture, 1000, everything.blob_overrides)}  # fmt: skip
    assert {name for name, found in rates.items() if found != {0.0}} == {"fc1000"}
    assert rates["fc1000"] == {10.0}
    for wrong in ("6", "", "fc1000"):
        with pytest.raises(InputError, match=r"^--freeze: found .*, expected names of stem, 2, 3, 4, 5"):
            frozen(PUBLISHED, [wrong])


def test_flags_and_what_is_derived(folder, tmp_path):
    recipe, output = trained(folder, "--data", "five", "--crop-size", "36", "--lr", "0.02", "--set", "2.base_lr=0.5",
                             "--set", "test_resize=44", run_dir=tmp_path / "run")  # fmt: skip
    assert (recipe.depth, recipe.classes, recipe.crop_size, recipe.test_resize) == (18, 5, 36, 44)
    assert [phase.base_lr for phase in recipe.phases] == [0.02, 0.5]
    assert "digits: ResNet-18 of width 16, 5 classes, images of 36x36\n" in output
    net, _ = call("train", "--recipe", "resnet50-448nodes", "--crop-size", "64", "--print-net", "--phase", "2")
    assert net.count("min_size: 73") == 1  # of the training images: this phase has no tests


def test_a_recipe_of_a_run(folder, run, tmp_path):
    words = ["train", "--config", run / "run.json", "--data", "five", "--iterations", "1", "--phase", "1"]
    call(*words, "--run-dir", tmp_path / "again", cwd=folder)
    assert recipe_of(tmp_path / "again") == recipe_of(run)
    assert weights(tmp_path / "again").read_bytes() == weights(run).read_bytes()
    call(*words, "--set", "1.base_lr=0.5", "--data", "three", "--run-dir", tmp_path / "other", cwd=folder)
    other = recipe_of(tmp_path / "other")
    assert (other.phases[0].base_lr, other.classes) == (0.5, 3)
    _, errors = call(*words, "--recipe", "digits", status=2, cwd=folder)
    assert errors == f"train: --recipe: found together with {run / 'run.json'}, which has a whole recipe, expected " \
                     "one of them\n"  # fmt: skip


def test_fields_of_a_recipe_in_toml(folder, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "digits"\ndepth = 18\nmean_bgr = [1, 2.5, 3]\nmomentum = 0.8\n1.base_lr = 0.25\n'
                    '[2]\nmirror = true\nlr_policy = "fixed"\n')  # fmt: skip
    call("train", "--config", file, "--data", "five", "--batch-size", "2", "--iterations", "1", "--phase", "1",
         "--set", "2.momentum=0.7", "--run-dir", tmp_path / "run", cwd=folder)  # fmt: skip
    recipe = recipe_of(tmp_path / "run")
    assert (recipe.name, recipe.depth, recipe.mean_bgr, recipe.batch_size) == ("digits", 18, (1.0, 2.5, 3.0), 2)
    assert [(p.base_lr, p.momentum, p.mirror) for p in recipe.phases] == [(0.25, 0.8, False), (0.0005, 0.7, True)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dept = 18", "found the unknown field 'dept', expected a field of the recipe or of a phase: "),
        ("depth = 18.5", "depth: found '18.5', expected a value of type int"),
        ("depth = 19", "depth: found 19, expected one of 18, 34, 50, 101, 152"),
        ("3.base_lr = 1", "phase: found '3', expected one of 1, 2"),
        ("depth = 1979-05-27", "depth: found datetime.date(1979, 5, 27), expected a number, a text, true, "),
        ("recipe = 5", "recipe: found 5, expected the name of a recipe"),
        ("depth = ", "cannot be read: Invalid value (at line 1, column "),
    ],
)
def test_mistakes_in_toml_are_one_line(folder, tmp_path, text, line):
    file = tmp_path / "mine.toml"
    file.write_text(text + "\n")
    words = [] if text.startswith("recipe") else ["--recipe", "digits"]
    _, errors = call("train", "--config", file, *words, "--data", "five", status=2, cwd=folder)
    assert errors.startswith(f"train: {file}: {line}")
    assert errors.count("\n") == 1


def test_other_classes_start_with_a_new_classifier(folder, run, tmp_path):
    path = weights(run)
    recipe, output = trained(folder, "--data", "three", "--weights", path, "--freeze", "stem,2,3,4,5",
                             "--head-lr-mult", "10", run_dir=tmp_path / "run")  # fmt: skip
    assert f"{path}: it has 5 classes, the data 3: a new classifier is trained\n" in output
    before, after = read_caffemodel(path), read_caffemodel(weights(tmp_path / "run"))
    for name, blobs in before.items():
        same = [np.array_equal(a, b) for a, b in zip(blobs, after[name], strict=True)]
        if name != "fc1000" and not name.startswith("bn"):
            assert all(same), name
    assert after["fc1000"][0].shape[-2] == 3
    assert {change[3] for change in recipe.blob_overrides} == {0.0, 10.0}


def test_other_names_start_with_a_new_classifier_and_the_same_ones_do_not(folder, run, tmp_path):
    path, renamed = weights(run), tmp_path / "renamed"
    shutil.copytree(folder / "five", renamed)
    (renamed / "classes.txt").write_text("a\nb\nc\nD\ne\n")
    _, output = trained(folder, "--data", renamed, "--weights", path, run_dir=tmp_path / "run")
    assert f"{path}: its class 3 is 'd', the data's 'D': a new classifier is trained\n" in output
    _, output = trained(folder, "--data", "five", "--weights", run, run_dir=tmp_path / "same")
    assert f"phase 1: starts from the weights in {path}\n" in output
    assert "classifier" not in output
    assert "not checked" not in output
    moved = shutil.copytree(run, tmp_path / "moved")
    move_snapshot(moved, "phase1_iter_1", tmp_path / "x")
    _, output = trained(folder, "--data", renamed, "--weights", moved, run_dir=tmp_path / "of_prefix")
    assert f"{tmp_path}/x_iter_1.caffemodel: its class 3 is 'd', the data's 'D': a new classifier" in output
    (renamed / "classes.txt").unlink()
    _, output = trained(folder, "--data", renamed, "--weights", path, run_dir=tmp_path / "nameless")
    assert f"{path}: that its 5 classes are those of the data is not checked: no names of classes in the data" in output


def test_weights_say_what_they_are(folder, run, tmp_path):
    """Without a run beside them, from the layers in the file."""
    alone = tmp_path / "alone.caffemodel"
    shutil.copy(weights(run), alone)
    words = ["train", "--recipe", "photos", "--batch-size", "4", "--epochs", "5", "--data", "five", "--weights", alone]
    output, _ = call(*words, "--iterations", "1", "--phase", "1", "--run-dir", tmp_path / "run", cwd=folder)
    assert f"as the weights in {alone}: depth 18, width 16, crop_size 32, test_resize 37\n" in output
    recipe = recipe_of(tmp_path / "run")
    assert (recipe.depth, recipe.crop_size, recipe.test_resize) == (18, 32, 37)
    resumed = [*words[:-2], "--iterations", "2", "--phase", "1", "--run-dir", tmp_path / "run", "--resume"]
    call(*resumed, cwd=folder)
    _, errors = call(*words, "--depth", "50", status=2, cwd=folder)
    assert errors == f"train: --depth: found 50, expected 18, that of the weights in {alone}\n"
    net, _ = call(*words, "--set", "scale=0.5", "--print-net", cwd=folder)
    assert "scale: 0.5\n" in net
    result = json.loads(call("evaluate", "--weights", alone, "--data", folder / "five", "--json")[0])
    same = json.loads(call("evaluate", "--weights", weights(run), "--data", folder / "five", "--json")[0])
    assert result["records"] == same["records"] == 20


def test_workers_share_the_batch_of_a_photos_run(folder, tmp_path):
    words = ["--recipe", "photos", "--epochs", "5", "--depth", "18", "--batch-size", "4", "--data", "five"]
    call("train", *words, "--crop-size", "32", "--iterations", "1", "--phase", "1", "--run-dir", tmp_path / "run",
         cwd=folder)  # fmt: skip
    again = ["train", "--config", tmp_path / "run", "--data", "five", "--print-net"]
    for flags, each in (([], 2), (["--workers", "4"], 1), (["--workers", "1"], 4), (["--batch-size", "16"], 8)):
        assert f"\n    batch_size: {each}\n" in call(*again, *flags, cwd=folder)[0]


def test_what_is_seldom_meant_is_said():
    recipe = override(photos((6400, 0), 5), ["1.max_iter=20", "2.max_iter=1", "2.starts_from=19"])
    data = RunData(DataSet("data", 6400, list("abcde"), 4, "", True), None)
    hosts = [
        {"host": "a", "rank": rank, "cores": "0", "threads": 1, "communication_cores": "-", "workers": []}
        for rank in range(3)
    ]
    lines = list(beginning(recipe, data, hosts, None))
    assert "less than one epoch: 0.11 of the 6400 images are seen in all phases" in lines
    assert "1 of 3 ranks have nothing to compute: there are 2 workers" in lines
