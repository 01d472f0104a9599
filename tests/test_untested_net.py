"""A net without a TEST data layer: how bin/evaluate prepares images, and that it says so."""

from dataclasses import replace

import numpy as np
import pytest
from commands import call
from weights import write_layers

from kernels import naive
from nptrain.caffe_net.net import understand
from nptrain.caffe_net.solver import read_solver, recipe_of
from nptrain.caffe_net.writer import to_text, train_val
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe

RECIPE = replace(get_recipe("resnet50-448nodes"), depth=18, width=16, classes=5, crop_size=32, batch_size=4)
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3\n'


def files(folder, **changes):
    """A solver and its net without a TEST layer, of a training phase with these changes. Returns the recipe."""
    phase = replace(RECIPE.phases[1], **changes)
    (folder / "net.prototxt").write_text(to_text(train_val(RECIPE, phase, "train")))
    (folder / "solver.prototxt").write_text(SOLVER)
    net = understand(train_val(RECIPE, phase, "train"), "net")
    return recipe_of(read_solver(folder / "solver.prototxt"), net, 1)


@pytest.mark.parametrize(
    ("changes", "resize", "line"),
    [
        ({}, None, "are not resized, as the TRAIN layer says, and cropped to 32"),
        ({"resize": 35}, 35, "are resized to 35 (the shorter side), as the TRAIN layer says, and cropped to 32"),
        ({"augmentation": "random_aspect_ratio"}, 37,
         "are resized to 37 (the shorter side), which the net file does not say, and cropped to 32"),
    ],
)  # fmt: skip
def test_images_are_prepared_as_the_training_layer_says(tmp_path, data, changes, resize, line):
    assert files(tmp_path, **changes).test_resize == resize
    network = ResNet.of(RECIPE, naive)
    network.arena.initialise(1)
    network.arena.statistics[:] = 1
    network.arena.factors[:] = 1
    write_layers(tmp_path / "w", "net", network.arena.export())
    command = ["evaluate", "--weights", tmp_path / "w", "--data", data / "val", "--kernels", "numpy"]
    output, errors = call(*command, "--solver", tmp_path / "solver.prototxt")
    assert errors.startswith(
        f"{tmp_path}/net.prototxt has no TEST data layer: test images {line} (--set test_resize=N)\n"
    )
    sizes = ["--set", "depth=18", "--set", "width=16", "--crop-size", "32", "--set", f"test_resize={resize or 'none'}"]
    expected, _ = call(*command, "--recipe", "resnet50-448nodes", *sizes)
    assert output == expected
    assert np.isfinite(float(output.split("loss ")[1].split(",")[0]))
