"""bin/classify: the right probabilities with their names, of any images, by any models; and its contact sheet."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from commands import call
from images import image, image_file
from PIL import Image
from short_runs import move_snapshot
from weights import write_layers

from kernels import naive
from nptrain.caffe.model import read_caffemodel
from nptrain.data.augment import center_crop
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.run.checkpoint import load_caffemodel
from nptrain.run.run_folder import recipe_of

NAMES = ["ant", "bee", "cow", "$dog$", "élan", "fox", "gnu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """run/, of seven classes, with checkpoints of both phases, and photos/."""
    folder = tmp_path_factory.mktemp("classify")
    records = ((str(i), encoded_datum(image_file(image(i, 40, 36)), i % 7)) for i in range(14))
    write_lmdb(folder / "data", records, NAMES)
    fields = ["depth=18", "width=16", "batch_size=2", "test_resize=36", "max_iter=1", "2.starts_from=1",
              "base_lr=0.0001", "warmup_iter=0"]  # fmt: skip
    words = [word for field in fields for word in ("--set", field)]
    call("train", "--recipe", "digits", *words, "--data", "data", "--run-dir", "run", cwd=folder)
    (folder / "photos" / "below").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.JPG", "below/c.bmp")):
        image(50 + number, 60, 48).save(folder / "photos" / name, "BMP" if name.endswith("bmp") else "PNG")
    (folder / "photos" / "notes.txt").write_text("no image")
    (folder / "photos" / ".hidden.png").write_text("no image")
    return folder


def model(folder, phase):
    return folder / "run" / "checkpoints" / f"phase{phase}_iter_1.caffemodel"


def right(folder, picture, *phases):
    """The mean of the probabilities of a PIL image by the plain kernels in float64."""
    recipe, found = recipe_of(folder / "run"), []
    network = ResNet.of(recipe, naive, np.float64)
    pixels = center_crop(picture, recipe.crop_size, recipe.test_resize)[None]
    for phase in phases:
        load_caffemodel(model(folder, phase), network.arena)
        scores = Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))[0]
        exponentials = np.exp(scores - scores.max())
        found.append(exponentials / exponentials.sum())
    return np.mean(found, axis=0)


def classified(folder, *words, status=0):
    """{image: [(class, probability)]} of the command's JSON."""
    output, _ = call("classify", *words, "--json", "--top", "7", status=status, cwd=folder)
    rows = [json.loads(line) for line in output.splitlines()]
    return {row["image"]: {one["class"]: one["probability"] for one in row["top"]} for row in rows}


def same(found, expected):
    assert list(found) == [NAMES[label] for label in np.argsort(-expected)]
    assert [found[name] for name in NAMES] == pytest.approx(list(expected), rel=1e-3)


def test_a_run_and_an_ensemble(folder):
    names = ["photos/a.png", "photos/b.JPG", "photos/below/c.bmp"]
    found = classified(folder, "run", "photos", "--batch-size", "2")
    assert list(found) == names
    for number, name in enumerate(names):
        same(found[name], right(folder, image(50 + number, 60, 48), 2))
    found = classified(folder, model(folder, 1), "photos/a.png", "--with", "run")
    same(found["photos/a.png"], right(folder, image(50, 60, 48), 1, 2))


def test_the_checkpoint_of_a_run(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "best.json").write_text(json.dumps({"phase": "1", "iteration": 1}))
    found = classified(folder, tmp_path / "run", "photos/a.png")["photos/a.png"]
    assert found == classified(folder, model(folder, 1), "photos/a.png")["photos/a.png"]
    (tmp_path / "run" / "best.json").write_text(json.dumps({"phase": "1", "iteration": 7, "weights": None}))
    newest, errors = call("classify", tmp_path / "run", "photos/a.png", "--json", cwd=folder)
    assert newest == call("classify", model(folder, 2), "photos/a.png", "--json", cwd=folder)[0]
    assert "best.json: no checkpoint was kept of the best test: the newest is used\n" in errors
    (tmp_path / "run" / "best.json").write_text("{}")
    _, errors = call("classify", tmp_path / "run", "x", status=2)
    assert errors.endswith("best.json: found no phase and iteration of a checkpoint\n")
    for path in (tmp_path / "run").rglob("*1.json"):
        path.unlink()
    (tmp_path / "run" / "best.json").unlink()
    _, errors = call("classify", tmp_path / "run", "x", status=2)
    assert errors == f"classify: {tmp_path / 'run'}: found no complete checkpoint of this run\n"
    _, errors = call("classify", folder / "photos", "x", status=2)
    assert errors.endswith("photos: a folder without run.json, expected that of a run, or a .caffemodel\n")


def test_snapshots_with_a_prefix_have_the_names_of_their_run(folder, tmp_path):
    moved, file = shutil.copytree(folder / "run", tmp_path / "run"), tmp_path / "x_iter_1.caffemodel"
    move_snapshot(moved, "phase2_iter_1", tmp_path / "x")
    for command, *words in (
        ("classify", moved, "photos/a.png", "--json"),
        ("evaluate", "--weights", moved, "--data", "data", "--json"),
        ("export", "--weights", moved, "--safetensors", tmp_path / "x.safetensors"),
    ):
        output, errors = call(command, *words, cwd=folder)
        (tmp_path / "x.safetensors").unlink(missing_ok=True)
        same_words = ["run" if word == moved else word for word in words]
        expected, chosen = call(command, *same_words, cwd=folder)
        assert output.replace(str(file), "run/checkpoints/phase2_iter_1.caffemodel") == expected
        assert errors.endswith(f"{moved}: the newest weights are {file}\n")
        assert chosen.endswith("run: the newest weights are run/checkpoints/phase2_iter_1.caffemodel\n")
        assert errors.count("\n") == chosen.count("\n") == 1


def test_photographs_are_turned_upright(folder, tmp_path):
    turned = image(3, 70, 44)
    exif = Image.Exif()
    exif[274] = 6  # stored turned to the left
    turned.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    same(classified(folder, "run", tmp_path / "a.png")[str(tmp_path / "a.png")], right(folder, turned, 2))


def test_lines_and_tables(folder, monkeypatch):
    output, errors = call("classify", "run", "photos/a.png", "--top", "2", cwd=folder)
    expected = right(folder, image(50, 60, 48), 2)
    best = np.argsort(-expected)[:2]
    words = ", ".join(f"{NAMES[label]} {expected[label]:.1%}" for label in best)
    assert output == f"photos/a.png: {words}\n"
    assert errors == "classify: run: the newest weights are run/checkpoints/phase2_iter_1.caffemodel\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/a.png\n\nphotos/below\n"))
    output, _ = call("classify", "run", "-", "--csv", "--top", "2", cwd=folder)
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["image"] for row in rows] == ["photos/a.png"] * 2 + ["photos/below/c.bmp"] * 2
    assert [(row["rank"], row["class"]) for row in rows[:2]] == [("1", NAMES[best[0]]), ("2", NAMES[best[1]])]
    assert float(rows[0]["probability"]) == pytest.approx(expected[best[0]], rel=1e-3)


def test_what_is_no_image_is_named_and_the_others_go_on(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "small.png").write_bytes(image_file(image(0, 4, 300_000 // 4)))
    words = ["photos/a.png", "photos/notes.txt", "none.jpg", tmp_path / "empty", "photos/b.JPG"]
    output, errors = call("classify", "run", *words, status=1, cwd=folder)
    assert [line.partition(":")[0] for line in output.splitlines()] == ["photos/a.png", "photos/b.JPG"]
    assert sorted(errors.splitlines()[1:], reverse=True) == [
        "classify: photos/notes.txt: found 8 bytes that are not an image file",
        "classify: none.jpg: cannot be read: No such file or directory",
        f"classify: {tmp_path / 'empty'}: found no image in this folder, expected names that end in .jpg, .jpeg, .png, "
        ".bmp, .gif, .tif, .tiff, .webp",
    ]


def test_weights_alone(folder, tmp_path):
    """Their classes have numbers, or the names that the user gives."""
    alone = tmp_path / "alone.caffemodel"
    shutil.copy(model(folder, 2), alone)
    words = [alone, "photos/a.png", "--set", "test_resize=36", "--top", "1"]
    output, errors = call("classify", *words, cwd=folder)
    label = np.argmax(right(folder, image(50, 60, 48), 2))
    assert output.startswith(f"photos/a.png: class {label} ")
    assert f"classify: the run of {alone} has no names of its 7 classes (--classes FILE): " in errors
    for names in ("data", "data/classes.txt"):
        output, _ = call("classify", *words, "--classes", names, cwd=folder)
        assert output.startswith(f"photos/a.png: {NAMES[label]} ")
    (tmp_path / "two.txt").write_text("a\nb\n")
    _, errors = call("classify", *words, "--classes", tmp_path / "two.txt", status=2, cwd=folder)
    assert errors == f"classify: --classes: found 2 names in {tmp_path / 'two.txt'}, expected 7\n"


def test_a_run_that_does_not_resize_is_said(folder):
    _, errors = call("classify", "run", "photos/a.png", "--set", "test_resize=none", cwd=folder)
    assert "images are not resized, as in the run's tests: only the 32x32 pixels in the middle are seen" in errors


def test_scores_that_are_not_numbers_are_an_error(folder, tmp_path):
    blobs = read_caffemodel(model(folder, 2))
    blobs["fc1000"][1][:] = np.nan
    write_layers(tmp_path / "bad.caffemodel", "x", [(name, "x", arrays) for name, arrays in blobs.items()])
    output, errors = call("classify", tmp_path / "bad.caffemodel", "photos/a.png", status=2, cwd=folder)
    assert output == ""
    assert errors.splitlines()[-1].endswith("bad.caffemodel are not finite numbers")


def test_the_contact_sheet(folder, tmp_path):
    """Each image is on it, and its bars are as long as its probabilities."""
    Image.new("RGB", (60, 60), (250, 20, 20)).save(tmp_path / "red.png")
    Image.new("RGB", (60, 60), (20, 20, 250)).save(tmp_path / "blue.png")
    out = tmp_path / "sheet.png"
    words = ["run", tmp_path / "red.png", tmp_path / "blue.png", "--top", "2", "--json", "--out", out]
    output, _ = call("classify", *words, cwd=folder)
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    probability = json.loads(output.splitlines()[0])["top"][0]["probability"]
    red, blue = ((abs(pixels - color).sum(axis=2) < 12) for color in ((250, 20, 20), (20, 20, 250)))
    assert red.sum() == pytest.approx(220 * 220, rel=0.02)
    assert np.nonzero(red)[1].mean() < np.nonzero(blue)[1].mean()
    bar = (abs(pixels - (0x9C, 0xC3, 0xE6)).sum(axis=2) < 3)[:, : pixels.shape[1] // 2]
    row = bar.sum(axis=1).max()
    assert row == pytest.approx(220 * probability, abs=3)
    _, errors = call("classify", "run", "photos", "--out", "sheet.gif", status=2, cwd=folder)
    assert errors.startswith("classify: --out: found sheet.gif, expected a name that ends in .png")
