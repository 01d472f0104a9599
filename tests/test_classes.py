"""What a run knows of its data: names of classes, which data sets fit together, and how many classes there are."""

import json
from argparse import Namespace

import numpy as np
import pytest
from commands import NARROW, call
from images import image, image_file
from weights import write_layers

from bin.common.data_sets import DataSet, RunData, name_data_sets
from nptrain.caffe.model import read_caffemodel
from nptrain.data.datum import encoded_datum, raw_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.errors import InputError

NAMES = ["ant", "bee", "cow"]
SHORT = ["--recipe", "digits", *NARROW, "--batch-size", "2", "--iterations", "1", "--phase", "1"]


def make(path, labels, names=None):
    """A data set of small images with these labels, and names of their classes."""
    records = ((f"{i}.png", encoded_datum(image_file(image(i, 36, 34)), label)) for i, label in enumerate(labels))
    write_lmdb(path, records, names)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """data/train and data/val of named classes, and others beside them."""
    folder = tmp_path_factory.mktemp("classes")
    (folder / "data").mkdir()
    make(folder / "data" / "train", [0, 1, 2, 0, 1, 2], NAMES)
    make(folder / "data" / "val", [0, 1], NAMES)
    make(folder / "shifted", [0, 1, 0], NAMES[1:])
    make(folder / "nameless", [0, 1, 3])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A run of data/: (its folder, what it printed)."""
    output, _ = call("train", *SHORT, "--data", "data", "--run-dir", "run", cwd=folder)
    return folder / "run", output


@pytest.mark.parametrize("label", [0, 1, 127, 128, 999, 70_000, 2**31 - 1, -1])
@pytest.mark.parametrize("raw", [True, False])
def test_a_label_is_read_without_the_pixels(tmp_path, monkeypatch, label, raw):
    record = raw_datum(image(0), label) if raw else encoded_datum(image_file(image(0)), label)
    write_lmdb(tmp_path / "set", [("x", record)])
    dataset = LmdbDataset(tmp_path / "set")
    assert dataset.label(0) == label
    if 0 <= label < 2**28:
        monkeypatch.setattr(dataset, "datum", None)
        assert dataset.label(0) == label


def test_a_label_in_an_unusual_place_is_found(tmp_path):
    record = encoded_datum(image_file(image(0)), 7)
    head, label = record[:-4], record[-4:]  # 28 07 38 01: label and encoded
    assert label == b"\x28\x07\x38\x01"
    write_lmdb(tmp_path / "set", [("a", label + head), ("b", record + b"\x28\x09"), ("c", b"\x22\x7fdamaged")])
    dataset = LmdbDataset(tmp_path / "set")
    assert [dataset.label(i) for i in (0, 1)] == [7, 9]
    assert dataset.largest_label() == (9, 1)
    with pytest.raises(InputError, match="not a Datum"):
        dataset.label(2)


def test_data_knows_train_and_val_and_the_run_their_names(run):
    path, output = run
    assert "\n3 classes: ant, bee, cow\n" in output
    assert "2 workers x 2 images = global batch 4; 6 images to train on, 2 to test on\n" in output
    assert "3 classes, as data/train/classes.txt says\n" in output
    entry = json.loads((path / "run.json").read_text())
    assert entry["classes"] == NAMES
    assert entry["recipe"]["classes"] == 3
    assert {name: facts["number of records"] for name, facts in entry["data"].items()} == {
        "train_data": 6,
        "val_data": 2,
    }
    assert "3 classes: ant, bee, cow\n" in call("inspect", path)[0]


def test_held_out_data_have_one_of_four_names(tmp_path):
    for name in ("Train", "test", "validation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.mdb").touch()

    def named(**given):
        args = Namespace(data=str(tmp_path), **{"train_data": None, "val_data": None, **given})
        name_data_sets(args)
        return args.train_data, args.val_data

    assert named() == (str(tmp_path / "Train"), str(tmp_path / "validation"))
    assert named(val_data="x", train_data="y") == ("y", "x")
    (tmp_path / "validation" / "data.mdb").unlink()
    assert named() == (str(tmp_path / "Train"), str(tmp_path / "test"))


def test_one_data_set_is_trained_on_without_tests(folder, tmp_path):
    output, _ = call("train", *SHORT, "--data", folder / "nameless", "--run-dir", tmp_path / "run")
    assert "4 classes, as the largest label of {} says".format(folder / "nameless") in output
    assert "\n4 classes without names\n" in output
    assert f"no classes.txt in {folder / 'nameless'}: labels are 0..3\n" in output
    assert "3 images to train on\n" in output
    assert "the batch is larger than the data set, a step has images more than once: 4 of 3 images\n" in output
    few = ["--workers", "4", "--batch-size", "1", "--set", "max_iter=1", "--set", "2.starts_from=1", "--classes", "5"]
    output, _ = call("train", *SHORT, *few, "--data", folder / "nameless", "--run-dir", tmp_path / "other")
    assert "more workers than images: 4 workers, 3 images\n" in output
    assert "5 classes without names" in output


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "data", "--val-data", "shifted"],
         "shifted: class 0 is 'bee', expected 'ant', as in data/train: bin/make_lmdb --classes-of "),
        (["--data", "shifted", "--val-data", "data/train"],
         "data/train: class 0 is 'ant', expected 'bee', as in shifted: "),
        (["--data", "data", "--classes", "4"], "--classes: found 4 classes, expected 3, as data/train/classes"),
        (["--data", "data", "--set", "classes=4"], "--classes: found 4 classes, expected 3, as data/train/"),
        (["--data", "nameless", "--classes", "3"],
         "nameless: record 00000002_2.png: found label 3, expected 0..2, as --classes says 3 classes"),
        (["--data", "data", "--val-data", "nameless"],
         "nameless: record 00000002_2.png: found label 3, expected 0..2, as data/train has 3 classes"),
        (["--data", "."], "--data: found no data set train, expected it, and for tests val: bin/make_lmdb makes them"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_one_line(folder, words, line):
    _, errors = call("train", *SHORT, *words, "--run-dir", "none", status=2, cwd=folder)
    assert errors.startswith(f"train: {line}")
    assert errors.count("\n") == 1
    assert not (folder / "none").exists()


def test_the_labels_of_a_large_data_set_are_sampled(folder):
    data = RunData(DataSet.read(folder / "nameless", most=2), None)
    assert (data.train.largest_label, data.train.all_read) == (3, False)
    assert data.number_of_classes(None, 1000) == (1000, "1000 classes, as in the recipe; the largest label is 3")
    assert any("labels of about" in line for line in data.unknown(1000))
    with pytest.raises(InputError, match=r"found label 3, expected 0\.\.2, as the recipe says 3 classes"):
        data.number_of_classes(None, 3)


def test_a_name_for_every_label(tmp_path):
    make(tmp_path / "set", [0, 5], NAMES)
    with pytest.raises(InputError, match=r"record 00000001_1\.png: found label 5, expected 0\.\.2, as many as classes"):
        DataSet.read(tmp_path / "set")


def test_a_run_is_resumed_with_the_same_classes(folder, run):
    words = [*SHORT, "--train-data", "data/train", "--run-dir", run[0], "--resume"]
    call("train", *words, cwd=folder)
    renamed = make(folder / "renamed", [0, 1, 2, 0, 1, 2], ["ant", "bug", "cow"])
    words[words.index("data/train")] = renamed
    _, errors = call("train", *words, status=2, cwd=folder)
    assert errors.startswith(f"train: the data: class 1 is 'bug', expected 'bee', as in the run in {run[0]}: ")


def weights(run):
    return run / "checkpoints" / "phase1_iter_1.caffemodel"


def evaluate(path, data, *words, **how):
    return call("evaluate", "--weights", path, "--data", data, *words, **how)


def test_evaluate_compares_the_data_with_the_run(folder, run):
    path = weights(run[0])
    output, errors = evaluate(path, folder / "data" / "val")
    assert evaluate(run[0], folder / "data" / "val") == (output, f"{run[0]}: the best weights are {path}\n")
    assert output.startswith("2 images: loss ")
    assert "top-5" not in output
    assert errors == ""
    _, errors = evaluate(path, "shifted", status=2, cwd=folder)
    assert errors.startswith(f"evaluate: shifted: class 0 is 'bee', expected 'ant', as in the run of {path}: ")
    _, errors = evaluate(path, "nameless", status=2, cwd=folder)
    assert "record 00000002_2.png: found label 3, expected 0..2, as the weights have 3 classes" in errors


def test_evaluate_says_what_it_cannot_compare(folder, run, tmp_path):
    alone = tmp_path / "alone.caffemodel"
    alone.write_bytes(weights(run[0]).read_bytes())
    _, errors = evaluate(alone, folder / "data" / "val")
    assert f"are the same is not checked: no names of classes in the run of {alone}\n" in errors
    few = make(tmp_path / "few", [0, 1])
    assert f"not checked: no names of classes in {few}\n" in evaluate(weights(run[0]), few)[1]
    four = make(tmp_path / "four", [0, 1], [*NAMES, "dog"])
    _, errors = evaluate(alone, four, status=2)
    assert errors.endswith(f"evaluate: {four}: found 4 classes, expected 3, those of {alone}\n")


def test_evaluate_of_each_class(folder, run):
    train = folder / "data" / "train"
    output, _ = evaluate(weights(run[0]), train, "--per-class")
    assert [line.split()[:3] for line in output.splitlines()[2:]] == [[str(i), n, "2"] for i, n in enumerate(NAMES)]
    result = json.loads(evaluate(weights(run[0]), train, "--per-class", "--json")[0])
    assert [row["class"] for row in result["per_class"]] == NAMES
    assert sum(row["top1"] * row["records"] for row in result["per_class"]) == pytest.approx(result["top1"] * 6)
    both = [folder / "data" / "val", "--per-class"]
    assert evaluate(weights(run[0]), *both)[0].splitlines()[-1].split() == ["2", "cow", "0", "images"]


def test_a_result_that_is_not_a_number_is_null(folder, run, tmp_path):
    blobs = read_caffemodel(weights(run[0]))
    blobs["fc1000"][1][:] = np.nan
    broken = tmp_path / "broken.caffemodel"
    write_layers(broken, "x", [(name, "x", arrays) for name, arrays in blobs.items()])
    words = ["--recipe", "digits", "--json"]
    result = json.loads(evaluate(broken, folder / "data" / "val", *words)[0], parse_constant=pytest.fail)
    assert (result["loss"], result["top1"]) == (None, None)
    assert result["why"] == "the scores of the weights are not finite numbers"
