"""bin/evaluate --model --iterations: what `caffe test` prints, line by line, as scripts parse it."""

import re
import shutil

import numpy as np
import pytest
from commands import call
from images import image, image_file
from weights import write_layers

from kernels import naive
from nptrain.caffe_net.writer import to_text, train_val
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override

RECIPE = override(get_recipe("resnet50-448nodes"), ["depth=18", "width=16", "classes=5", "crop_size=32",
                                                    "test_resize=34", "test_batch_size=2"])  # fmt: skip
PREFIX = r"^I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ caffe\.cpp:\d+\] "
NUMPY = ["--kernels", "numpy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A net file, weights, and seven records; each pair of records, and of the first and last, is an LMDB, too."""
    folder = tmp_path_factory.mktemp("caffe")
    records = [(f"{i}.png", encoded_datum(image_file(image(i, 40, 33)), i % 5)) for i in range(7)]
    write_lmdb(folder / "val", records)
    for start in (0, 2, 4, 6, 8):
        write_lmdb(folder / f"pair{start}", [records[k % 7] for k in sorted((start, start + 1), key=lambda k: k % 7)])
    (folder / "net.prototxt").write_text(to_text(train_val(RECIPE, RECIPE.phases[0], "train", "val")))
    network = ResNet.of(RECIPE, naive)
    network.arena.initialise(1)
    for array in (network.arena.statistics, network.arena.factors):
        array[:] = 1
    write_layers(folder / "w.caffemodel", "net", network.arena.export())
    return folder


def values(line):
    return [float(number) for number in re.findall(r"= ([-\d.e]+)", line)]


def test_batches_and_means(folder, on_ranks):
    """Five batches of two of seven records: after the last comes the first. Each has what an evaluation of it has."""
    flags = ["-model", "net.prototxt", "-weights", "w.caffemodel", *NUMPY]
    output, errors = call("evaluate", *flags, "-iterations", 5, "--logtostderr=1", cwd=folder)
    assert "no effect" in errors
    lines = output.splitlines()
    assert re.fullmatch(PREFIX + "Running for 5 iterations.", lines[0])
    names, rows = ("loss", "loss3/top-1", "loss3/top-5"), []
    for number, start in enumerate((0, 2, 4, 6, 8)):
        found = lines[1 + 3 * number : 4 + 3 * number]
        for name, line in zip(names, found, strict=True):
            assert re.match(PREFIX + re.escape(f"Batch {number}, {name} = "), line)
        rows.append([values(line)[0] for line in found])
        alone, _ = call("evaluate", *flags, "--data", f"pair{start}", cwd=folder)
        loss, top1 = re.fullmatch(r"2 images: loss (.*), top-1 (.*)%\n", alone).groups()
        assert rows[-1] == pytest.approx([float(loss), float(top1) / 100, 1], abs=1e-4)  # top-5 of five classes
    means = np.mean(rows, axis=0)
    assert re.match(PREFIX + "Loss: ", lines[16])
    assert float(lines[16].split("Loss: ")[1]) == pytest.approx(means[0], rel=1e-5)
    for name, line, mean in zip(names, lines[17:], means, strict=True):
        assert re.match(PREFIX + re.escape(f"{name} = "), line)
        assert values(line)[0] == pytest.approx(mean, rel=1e-5)
    assert re.search(r"loss = ([\d.]+) \(\* 1 = \1 loss\)$", lines[17])
    several = on_ranks(2).call("evaluate", *flags, "--iterations", "5", cwd=folder)
    assert [line.split("] ")[1] for line in several.splitlines()] == [line.split("] ")[1] for line in lines]


def test_outputs_have_the_names_of_the_file(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "caffe")
    net = tmp_path / "caffe/net.prototxt"
    net.write_text(net.read_text().replace('top: "loss3/top-1"', 'top: "accuracy"'))
    output, _ = call("evaluate", "--model", net, "--weights", folder / "w.caffemodel", "--iterations", 1, *NUMPY)
    assert [line.split("] ")[1].split(" = ")[0] for line in output.splitlines()] == [
        "Running for 1 iterations.", *(f"Batch 0, {name}" for name in ("accuracy", "loss", "loss3/top-5")),
        output.splitlines()[4].split("] ")[1], "accuracy", "loss", "loss3/top-5"]  # fmt: skip


def test_all_records_without_a_number_of_batches(folder):
    """And the batch of the flag counts, not that of the file."""
    common = ["evaluate", "--model", "net.prototxt", "--weights", "w.caffemodel", *NUMPY]
    whole, _ = call(*common, cwd=folder)
    assert whole.startswith("7 images: loss ")
    output, _ = call(*common, "--batch-size", 7, "--iterations", 1, cwd=folder)
    loss = float(whole.split("loss ")[1].split(",")[0])
    assert values(output.splitlines()[1])[0] == pytest.approx(loss, abs=1e-4)


def test_mistakes(folder, tmp_path):
    (folder / "no_test.prototxt").write_text(to_text(train_val(RECIPE, RECIPE.phases[1], "train")))
    weights = ["--weights", "w.caffemodel"]
    for flags, line in (
        ([*weights], "--data: found none, expected the folder of an LMDB, or --model with a net file that names it"),
        ([*weights, "--model", "no_test.prototxt"], "no_test.prototxt: found no TEST data layer, expected one"),
        ([*weights, "--model", "n", "--recipe", "digits"], "--model: found together with --recipe"),
        ([*weights, "--model", "net.prototxt", "--iterations", 0], "--iterations: found 0, expected 1 or more"),
        ([*weights, *weights, "--data", "val", "--iterations", 3], "--iterations: found with 2 --weights"),
    ):
        _, errors = call("evaluate", *flags, status=2, cwd=folder)
        assert errors.startswith(f"evaluate: {line}")
