"""The published fork's text of several solvers, one after another, each with a batch size."""

import json
import shutil

import pytest
from commands import call

from nptrain.caffe.model import read_caffemodel
from nptrain.caffe_net.solver import read_solver
from nptrain.caffe_net.writer import to_text, train_val
from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import override
from nptrain.recipes.schedule import learning_rate

FIRST = """params_pair {{
  solver_params {{
    net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 2 momentum: 0.9 random_seed: 3
    snapshot_prefix: "out/run" snapshot_after_train: false solver_mode: CPU
  }}
  {first}
}}
"""
TEXT = (
    FIRST
    + """params_pair {{ batch_size: 3 }}
params_pair {{
  solver_params {{ base_lr: 0.02 lr_policy: "poly" power: 1 max_iter: 3 {more} }}
}}
"""
)


def text(first="batch_size: 4", more=""):
    return TEXT.format(first=first, more=more)


def test_phases(tmp_path):
    path = tmp_path / "pairs.prototxt"
    path.write_text(text())
    found = read_solver(path)
    assert [phase.name for phase in found.phases] == ["0", "1", "2"]
    assert [phase.batch_size for phase in found.phases] == [4, 3, 3]  # until another pair names one
    assert [phase.snapshot_prefix for phase in found.phases] == [f"out/run_phase_{k}" for k in range(3)]
    assert [phase.max_iter for phase in found.phases] == [2, 2, 3]
    assert [phase.momentum for phase in found.phases] == [0.9, 0.9, 0.0]  # a solver of its own has Caffe's defaults
    assert [learning_rate(found.phases[2], i) for i in range(3)] == pytest.approx([0.02, 0.02 * 2 / 3, 0.02 / 3])
    assert [phase.snapshot_after_train for phase in found.phases] == [True, True, True]
    assert (found.net, found.seed) == ("net.prototxt", 3)
    line = "params_pair {}: snapshot_after_train has no effect: the next phase needs it"
    assert [note for note in found.notes if "after_train" in note] == [f"{path}: {line.format(k)}" for k in (0, 1)]
    path.write_text(text(first=""))
    assert [phase.batch_size for phase in read_solver(path).phases] == [None, 3, 3]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("params_pair { batch_size: 4 }", "params_pair 0: solver_params: found none, expected a solver"),
        (text(more='net: "other"'), "params_pair 2: net: found other, expected net.prototxt or none"),
        (text(more="random_seed: 4"), "params_pair 2: random_seed: found 4, expected 3 or none"),
        (text(more='type: "Adam"'), "params_pair 2: type: found 'Adam'"),
        (text(more="colour: 4"), "10:72: .*no field named"),
    ],
)
def test_mistakes(tmp_path, content, line):
    path = tmp_path / "pairs.prototxt"
    path.write_text(content)
    with pytest.raises(InputError, match=f"^{path}:? ?{line}"):
        read_solver(path)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    shutil.copytree(data / "train", folder / "train")
    recipe = override(
        get_recipe("resnet50-448nodes"), ["depth=18", "width=16", "classes=5", "crop_size=32", "batch_size=2"]
    )
    (folder / "net.prototxt").write_text(to_text(train_val(recipe, recipe.phases[1], "train")))
    (folder / "pairs.prototxt").write_text(text())
    return folder


def test_a_run(folder):
    """Each phase begins with the weights of the one before, at iteration 0 and with its own batch."""
    output, _ = call("train", "--solver=pairs.prototxt", "--workers", 1, "--kernels", "numpy", cwd=folder)
    assert "1 workers x 4, then 3 images = global batch 4, then 3; 41 images to train on" in output
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {f"run_phase_{phase}_iter_{n}.{kind}" for phase, n in enumerate((2, 2, 3))
                     for kind in ("caffemodel", "solverstate")}  # fmt: skip
    lines = [json.loads(line) for line in (folder / "runs/pairs/metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["iteration"]) for line in lines] == [
        ("0", 0), ("0", 1), ("1", 0), ("1", 1), ("2", 0), ("2", 1), ("2", 2)]  # fmt: skip
    single = ["train", "--solver=pairs.prototxt", "--workers", 1, "--kernels", "numpy", "--phase", "1",
              "--weights", "out/run_phase_0_iter_2.caffemodel", "--run-dir", "runs/one",
              "--set", "1.snapshot_prefix=out/one"]  # fmt: skip
    call(*single, cwd=folder)
    alone, within = (read_caffemodel(folder / "out" / f"{name}_iter_2.caffemodel") for name in ("one", "run_phase_1"))
    assert all(a.tobytes() == b.tobytes() for name in within for a, b in zip(alone[name], within[name], strict=True))


def test_one_batch_size_for_all_is_refused(folder):
    _, errors = call("train", "--solver=pairs.prototxt", "--batch-size", 8, status=2, cwd=folder)
    assert errors == "train: batch_size: found 8, expected 0.batch_size: the phases have batch sizes of their own\n"
    printed, _ = call("train", "--solver=pairs.prototxt", "--batch-size", 8, "--set", "batch_size=8", "--phase", "2",
                      "--print-net", status=2, cwd=folder)  # fmt: skip
    assert printed == ""
    printed, _ = call("train", "--solver=pairs.prototxt", "--phase", "2", "--print-net", cwd=folder)
    assert "batch_size: 3\n" in printed
