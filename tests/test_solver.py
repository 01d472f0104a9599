"""Solver files: every field of Caffe's message, both ways; mistakes, each with its line."""

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
from google.protobuf import text_format

from nptrain.caffe.caffe_pb2 import SolverParameter
from nptrain.caffe_net.net import read_net, understand
from nptrain.caffe_net.solver import (
    HONOURED,
    NOTED,
    NOWHERE,
    OF_NET,
    OF_PHASE,
    REFUSED,
    read_solver,
    recipe_of,
    snapshot_prefix,
    write_solver,
)
from nptrain.caffe_net.writer import train_val
from nptrain.errors import InputError
from nptrain.recipes.published import RECIPES
from nptrain.recipes.recipe import Phase, override
from nptrain.recipes.schedule import learning_rate

CAFFE = Path(__file__).parent / "caffe"
LEAST = 'net: "n"\nbase_lr: 0.1\nlr_policy: "fixed"\nmax_iter: 10\n'
FIELDS = SolverParameter.DESCRIPTOR.fields_by_name


def solver(folder, text, name="my.solver.prototxt"):
    path = folder / name
    path.write_text(text)
    return read_solver(path)


def test_no_field_of_the_message_is_forgotten():
    tables = [*HONOURED, *NOTED, *REFUSED]
    assert sorted(tables) == sorted(FIELDS)
    known = {"name", "starts_from", "pad", "batch_size", *OF_PHASE.values(), *OF_NET, *NOWHERE}
    assert known == {field.name for field in fields(Phase)}


@pytest.mark.parametrize(("file", "name"), [("solver", "1"), ("solver_collapse", "2")])
def test_the_published_solvers_are_the_published_recipe(file, name):
    found = read_solver(CAFFE / f"{file}.prototxt")
    expected = RECIPES["resnet50-448nodes"].phase(name)
    ours = {"name", "starts_from", "batch_size", "snapshot_prefix", "test_interval", "test_initialization", "pad"}
    ours |= {*OF_NET}
    for field in {field.name for field in fields(Phase)} - ours:
        assert getattr(found.phases[0], field) == getattr(expected, field), field
    rates = [[learning_rate(phase, i) for i in range(phase.max_iter)] for phase in (found.phases[0], expected)]
    assert rates[0] == rates[1]
    assert (found.seed, found.notes) == (None, ())


def test_absent_fields_have_caffes_defaults(tmp_path):
    phase = solver(tmp_path, LEAST).phases[0]
    assert phase == Phase(
        "my.solver", base_lr=0.1, max_iter=10, weight_decay=0.0, lr_policy="fixed", momentum=0.0, display=0,
        test_initialization=True)  # fmt: skip
    assert (phase.average_loss, phase.snapshot, phase.snapshot_after_train, phase.test_interval) == (1, 0, True, 0)


VALUES = {
    "type": ('"Nesterov"', "Nesterov"), "test_iter": ("50", 50), "test_interval": ("402", 402),
    "test_initialization": ("false", False), "base_lr": ("0.254", 0.254), "lr_policy": ('"step"', "step"),
    "gamma": ("0.1", 0.1), "power": ("0.75", 0.75), "stepsize": ("7", 7), "stepvalue": ("[3, 5]", (3, 5)),
    "plateau_winsize": ("[10, 20]", (10, 20)), "lr_iter": ("99", 99), "warmup_iter": ("4", 4),
    "warmup_start_lr": ("1e-3", 0.001), "max_iter": ("11", 11), "iter_size": ("2", 2), "momentum": ("0.95", 0.95),
    "weight_decay": ("0.00005", 0.00005), "regularization_type": ('"L1"', "L1"), "clip_gradients": ("35", 35.0),
    "local_lr_auto": ("true", True), "local_gw_ratio": ("0.002", 0.002), "display": ("20", 20),
    "average_loss": ("5", 5), "snapshot": ("402", 402), "snapshot_prefix": ('"a/b"', "a/b"),
    "snapshot_after_train": ("false", False),
}  # fmt: skip


@pytest.mark.parametrize("policy", ["fixed", "poly", "inv", "sigmoid", "plateau"])
def test_a_rate_of_zero_is_read_and_written(tmp_path, policy):
    """A solver that only tests, or measures."""
    phase = Phase("my.solver", 0.0, 10, 0.0, lr_policy=policy, power=0.5, gamma=0.3, stepsize=2, plateau_winsize=(4,))
    assert "base_lr: 0\n" in write_solver(phase, "n").replace("0.0", "0")
    assert solver(tmp_path, write_solver(phase, "n")).phases[0] == phase
    assert learning_rate(phase, 3) == 0


def test_every_field_of_a_phase_is_read_and_written(tmp_path):
    """Each with a value that is neither Caffe's default nor ours."""
    assert list(VALUES) == list(OF_PHASE)
    text = 'net: "n"\nrandom_seed: 7\n' + "".join(f"{name}: {text}\n" for name, (text, _) in VALUES.items())
    found = solver(tmp_path, text)
    for name, (_, value) in VALUES.items():
        assert getattr(found.phases[0], OF_PHASE[name]) == value, name
    assert (found.net, found.seed) == ("n", 7)
    again = solver(tmp_path, write_solver(found.phases[0], "other", found.seed))
    assert again == replace(found, net="other")
    text = write_solver(found.phases[0], "n")
    assert text_format.Parse(text, SolverParameter()).weight_decay == pytest.approx(0.00005)
    assert "weight_decay: 5e-05\n" in text


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_come_back_from_their_solver_files(tmp_path, name):
    """But for the phase's name and what it starts from, which Caffe's files do not hold, and what the net file does."""
    apart = {
        "name": "",
        "starts_from": None,
        "pad": 0,
        **{f.name: f.default for f in fields(Phase) if f.name in OF_NET},
    }
    for phase in RECIPES[name].phases:
        found = solver(tmp_path, write_solver(phase, "train_val.prototxt"))
        assert replace(found.phases[0], **apart) == replace(phase, **apart)


@pytest.mark.parametrize("policy", ["fixed", "multistep", "exp", "inv", "poly", "poly_cyc", "sigmoid", "plateau"])
def test_every_policy_comes_back(tmp_path, policy):
    phase = Phase("my.solver", 0.1, 10, 0.0, lr_policy=policy, power=0.5, gamma=0.3, stepsize=2, stepvalue=(3,),
                  plateau_winsize=(4,), lr_iter=20)  # fmt: skip
    assert solver(tmp_path, write_solver(phase, "n")).phases[0] == phase


def test_what_caffes_file_cannot_hold_is_refused():
    phase = Phase("1", 0.1, 10, 0.0)
    for change, line in (
        ({"momentum_correction": True}, "1.momentum_correction: found True, which no field of Caffe's files holds"),
        ({"lars_norm": "unfused"}, "1.lars_norm: found unfused, which no field of Caffe's files holds"),
        ({"decay_scale_and_shift": True}, "1.decay_scale_and_shift: found True, which no field"),
        ({"base_lr": 0.123456789}, "base_lr: found 0.123456789, which Caffe's file would round to 0.12345679"),
        ({"base_lr": 1e40}, "base_lr: found inf"),
        ({"max_iter": 1 << 40}, "max_iter: found 1099511627776, which Caffe's file cannot hold"),
    ):
        with pytest.raises(InputError) as caught:
            write_solver(replace(phase, **change), "n")
        assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_fields_are_named_unless_they_have_their_default(tmp_path, name):
    field = FIELDS[name]
    other = {field.TYPE_MESSAGE: "{ }" if field.is_repeated else "{ debug_info: true }", field.TYPE_BOOL: "true",
             field.TYPE_STRING: '"x"', field.TYPE_FLOAT: "0.5", field.TYPE_INT32: "1", field.TYPE_ENUM: "HDF5",
             }[field.type]  # fmt: skip
    if name == "train_state":
        other = '{ stage: "x" }'
    with pytest.raises(InputError) as caught:
        solver(tmp_path, f"{LEAST}{name}: {other}\n")
    assert str(caught.value).startswith(f"{tmp_path}/my.solver.prototxt: {name}: found ")
    assert "\n" not in str(caught.value)
    if field.has_default_value:
        message = SolverParameter(**{name: field.default_value})
        assert solver(tmp_path, LEAST + text_format.MessageToString(message)).notes == ()


def test_notes(tmp_path):
    text = LEAST + 'solver_mode: GPU\ndevice_id: 1\nengine: "MKL2017"\ndebug_info: true\ntest_compute_loss: true\n'
    notes = solver(tmp_path, text + "test_interval: 3\n").notes
    for name in (*NOTED, "test_interval"):
        assert len([line for line in notes if f": {name} has no effect" in line]) == 1
    assert len(notes) == len(NOTED) + 1
    (note,) = solver(tmp_path, LEAST + "local_lr_auto: true type: 'Nesterov'").notes
    assert note.endswith(": local_lr_auto has no effect with type Nesterov, as in the fork")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LEAST + "foo: 1", ':5:1: Message type "caffe.SolverParameter" has no field named "foo".'),
        (LEAST + "base_lr: 2", ':5:10: Message type "caffe.SolverParameter" should not have multiple "base_lr"'),
        (LEAST + "momentum: high", ":5:11: 'momentum: high': Couldn't parse float: high"),
        (LEAST + "display: 4e9", ":5:10: 'display: 4e9': Couldn't parse integer: 4e9"),
        (LEAST + "solver_mode: TPU", ":5:14: 'solver_mode: TPU': Enum type"),
        (LEAST + "type: 'SGD", ":5:7: 'type: 'SGD': String missing ending quote"),
        (LEAST + "snapshot 4", ":5:10: 'snapshot 4': Expected \":\"."),
        ("\x00", ":1:1: "),
        (LEAST + "momentum: 1e50", ": momentum: found inf, expected a number that a float32 can hold"),
        (LEAST + "momentum: nan", ": momentum: found nan, expected a number"),
        (LEAST + "momentum: 1", ": my.solver.momentum: found 1.0, expected a number from 0 to below 1"),
        (LEAST.replace('net: "n"', ""), ": net: found none, expected a value"),
        (LEAST.replace("base_lr: 0.1", ""), ": base_lr: found none, expected a value"),
        (LEAST.replace('lr_policy: "fixed"', ""), ": lr_policy: found none, expected a value"),
        (LEAST.replace("max_iter: 10", ""), ": max_iter: found none, expected a value"),
        (LEAST.replace("fixed", "poly"), ": power: found none, expected a value, as lr_policy is 'poly'"),
        (LEAST.replace("fixed", "step"), ": gamma: found none, expected a value, as lr_policy is 'step'"),
        (LEAST.replace("fixed", "cosine"), ": lr_policy: found 'cosine', expected one of"),
        (LEAST + 'type: "Adam"', ": type: found 'Adam', expected one of SGD, Nesterov"),
        (LEAST + "solver_type: ADAM", ": solver_type: found ADAM, expected SGD or NESTEROV"),
        (LEAST + 'solver_type: SGD type: "SGD"', ": solver_type: found together with type"),
        (LEAST + "test_iter: 1 test_iter: 2", ": test_iter: found 2 values, expected one"),
        (LEAST + "test_iter: 1", ": test_interval: found 0, expected 1 or more, as test_iter is given"),
        (LEAST + "test_iter: 0 test_interval: 1", ": my.solver.test_iter: found 0, expected none, or a positive"),
        (LEAST + "average_loss: 0", ": my.solver.average_loss: found 0, expected a positive number"),
        (LEAST + "display: -1", ": my.solver.display: found -1, expected 0 or more"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, text, line):
    with pytest.raises(InputError) as caught:
        solver(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/my.solver.prototxt{line}")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read: No such file"):
        read_solver(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"binary: not a text in UTF-8: .*, expected SolverParameter"):
        read_solver(tmp_path / "binary")


@pytest.mark.parametrize("read", [read_solver, read_net])
def test_what_never_ends_is_no_file(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(InputError, match=f"^{path}: cannot be read: not a regular file$"):
            read(path)


def test_texts_of_other_systems(tmp_path):
    """A byte order mark, other ends of lines, and comments in any encoding; but not a value."""
    path, expected = tmp_path / "my.solver.prototxt", solver(tmp_path, LEAST).phases[0]
    text = LEAST.encode()
    for content in (
        b"\xef\xbb\xbf" + text,
        text.replace(b"\n", b"\r\n"),
        b"# one\r" + text.replace(b"\n", b"\r"),
        b"# " + "学习率".encode("gbk") + b"\n" + text,
        text.rstrip() + b"  # \xe4 'quoted\n",
    ):
        path.write_bytes(content)
        assert read_solver(path).phases[0] == expected
    for content in (b'snapshot_prefix: "\xe4#"\n', b"snapshot_prefix: '#\xe4\n", b"\xe4 # comment\n"):
        path.write_bytes(b"# first\n" + content + text)
        with pytest.raises(InputError, match=r"not a text in UTF-8: line 2, not in a comment, expected SolverP"):
            read_solver(path)


def test_the_older_field_of_the_type(tmp_path):
    assert solver(tmp_path, LEAST + "solver_type: NESTEROV").phases[0].type == "Nesterov"
    assert solver(tmp_path, LEAST + "solver_type: SGD").phases[0].type == "SGD"


def test_snapshots_are_named_as_caffe_names_them(tmp_path):
    phase = Phase("1", 0.1, 10, 0.0)
    assert snapshot_prefix(replace(phase, snapshot_prefix="a/b"), "models/s.prototxt", 4) == "a/b"
    assert snapshot_prefix(phase, "models/my.solver.prototxt", 4) == "models/my.solver"
    assert snapshot_prefix(replace(phase, snapshot_prefix=str(tmp_path)), "models/s.prototxt", 4) == f"{tmp_path}/s"
    assert snapshot_prefix(replace(phase, snapshot_prefix="not/there/"), "models/s.prototxt", 4) == "not/there/s"
    assert snapshot_prefix(replace(phase, snapshot_prefix="%*/r%#_of_%*"), "models/s.prototxt", 896) == "896/r0_of_896"
    assert snapshot_prefix(replace(phase, snapshot_prefix="on%*/"), "models/s.prototxt", 2) == "on2/s"


def test_a_recipe_has_what_the_net_file_says(tmp_path):
    recipe = override(
        RECIPES["resnet50-448nodes"], ["bn_eps=0.001", "moving_average_fraction=0.9", "depth=18", "classes=7"]
    )
    net = understand(train_val(recipe, recipe.phases[0], "train", "val"), "net")
    found = recipe_of(solver(tmp_path, LEAST), net, 3)
    fields = ("bn_eps", "moving_average_fraction", "depth", "classes", "crop_size", "mean_bgr", "scale")
    assert [getattr(found, f) for f in fields] == [getattr(recipe, f) for f in fields]
    assert (found.workers, found.phases[0].augmentation) == (3, "random_aspect_ratio")
