"""Every value of the published recipe, and overriding any of them."""

import json
from dataclasses import replace

import pytest

from nptrain.data.augment import Transform
from nptrain.errors import InputError
from nptrain.recipes.published import RECIPES, get_recipe
from nptrain.recipes.recipe import from_dict, override, to_dict


def test_the_448_node_recipe_to_the_letter():
    recipe = get_recipe("resnet50-448nodes")
    common = {"workers": 896, "batch_size": 16, "classes": 1000, "crop_size": 224, "depth": 50,
              "scale": 1 / 128, "mean_bgr": (104, 117, 123), "bn_eps": 1e-5, "moving_average_fraction": 0.95,
              "test_resize": 256}  # fmt: skip
    assert {field: getattr(recipe, field) for field in common} == common
    shared = {"lr_policy": "poly", "momentum": 0.9, "momentum_correction": False, "regularization": "L2",
              "iter_size": 1, "clip_gradients": -1, "local_lr_auto": False, "snapshot": 402, "display": 40,
              "shuffle": True, "prefetch": 2, "mirror": True, "decay_scale_and_shift": False}  # fmt: skip
    parts = [
        {"base_lr": 4.8, "power": 1, "max_iter": 8040, "warmup_iter": 446, "warmup_start_lr": 0.1, "test_interval": 402,
         "weight_decay": 0.00005, "starts_from": None, "augmentation": "random_aspect_ratio"},
        {"base_lr": 0.254, "power": 2, "max_iter": 402, "warmup_iter": 0, "test_interval": 0,
         "weight_decay": 0.0001, "starts_from": 7638, "augmentation": "random_crop"},
    ]  # fmt: skip
    for phase, values in zip(recipe.phases, parts, strict=True):
        expected = {**shared, **values}
        assert {field: getattr(phase, field) for field in expected} == expected
    assert recipe.phases[0].train_transform(recipe) == Transform("random_aspect_ratio", 224, min_area=0.08, aspect=0.75)
    assert recipe.phases[1].train_transform(recipe) == Transform("random_crop", 224)
    assert recipe.test_transform() == Transform("test", 224, resize=256, mirror=False)
    assert recipe.phases[1].starts_from == 19 * recipe.phases[0].snapshot


def test_the_64_node_recipe_to_the_letter():
    recipe = get_recipe("resnet50-64nodes-cyclic")
    plain = get_recipe("resnet50-448nodes")
    assert (recipe.workers, recipe.batch_size, recipe.workers * recipe.batch_size) == (128, 32, 4096)
    same = {"name": recipe.name, "description": recipe.description, "phases": recipe.phases, "workers": 128,
            "batch_size": 32}  # fmt: skip
    assert replace(plain, **same) == recipe
    table = """
        init     poly_cyc 1.6   1 7800 18720 1560 0.1   0.00005
        cyc1     poly_cyc 1.02  2 3750 7500  0    0     0.00005
        cyc2     poly_cyc 0.764 2 4750 7500  1000 0.255 0.00005
        cyc3     poly_cyc 0.572 2 4750 7500  1000 0.19  0.00005
        collapse poly     0.143 2 1560 None  0    0     0.0002"""
    names = "name lr_policy base_lr power max_iter lr_iter warmup_iter warmup_start_lr weight_decay"
    lines = [line.split() for line in table.strip().splitlines()]
    for phase, values in zip(recipe.phases, lines, strict=True):
        found = [getattr(phase, field) for field in names.split()]
        assert found[:2] == values[:2]
        assert found[2:] == [None if value == "None" else float(value) for value in values[2:]]
        assert (phase.momentum, phase.type, phase.regularization, phase.iter_size, phase.display) == (
            0.9, "SGD", "L2", 1, 40)  # fmt: skip
        assert phase.starts_from is None  # the end of the one before
        assert phase.augmentation == ("random_crop" if phase.name == "collapse" else "random_aspect_ratio")
        assert phase.snapshot > 0
    assert 72 < sum(phase.max_iter for phase in recipe.phases) * 4096 / 1_281_167 < 72.5  # epochs, as published


def test_the_small_cycles_are_the_large_ones():
    large, small = (get_recipe(name) for name in ("resnet50-64nodes-cyclic", "cifar10-cyclic"))
    assert replace(get_recipe("cifar10"), name=small.name, description=small.description, phases=small.phases) == small
    for one, two in zip(small.phases, large.phases, strict=True):
        same = ("name", "lr_policy", "power", "momentum", "starts_from")
        assert [getattr(one, field) for field in same] == [getattr(two, field) for field in same]
        for field in ("max_iter", "lr_iter", "warmup_iter"):
            assert (getattr(one, field) or 0) == pytest.approx(0.08 * (getattr(two, field) or 0), abs=0.5)
        assert one.base_lr == pytest.approx(0.03 / 1.6 * two.base_lr, rel=0.03)
        assert one.weight_decay == 10 * two.weight_decay
        assert one.augmentation == "random_crop"


@pytest.mark.parametrize("name", ["resnet50-448nodes", "cifar10", "digits"])
def test_every_recipe_has_the_shape_of_the_published_one(name):
    one, two = get_recipe(name).phases
    assert (one.lr_policy, one.power, two.lr_policy, two.power) == ("poly", 1, "poly", 2)
    assert one.warmup_iter > 0
    assert two.warmup_iter == 0
    assert two.weight_decay == 2 * one.weight_decay
    assert 0.94 < two.starts_from / one.max_iter < 0.96
    assert two.starts_from % one.snapshot == 0
    assert two.augmentation == "random_crop"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name):
    recipe = get_recipe(name)
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_override():
    recipe = override(get_recipe("digits"), [
        "workers=3", "1.base_lr=0.5", "momentum=0.8", "2.stepvalue=10,20", "1.resize=40", "shuffle=false",
        "mean_bgr=1,2,3", "test_resize=none"])  # fmt: skip
    one, two = recipe.phases
    assert (recipe.workers, one.base_lr, one.momentum, two.momentum) == (3, 0.5, 0.8, 0.8)
    assert (two.base_lr, two.stepvalue, one.stepvalue) == (0.0005, (10, 20), ())
    assert (one.resize, two.resize, one.shuffle, recipe.mean_bgr, recipe.test_resize) == (
        40,
        None,
        False,
        (1, 2, 3),
        None,
    )


def test_values_that_need_each_other_may_come_in_any_order():
    recipe = override(get_recipe("digits"), ["1.lr_policy=step", "1.gamma=0.1", "1.stepsize=10"])
    assert (recipe.phases[0].lr_policy, recipe.phases[0].gamma, recipe.phases[0].stepsize) == ("step", 0.1, 10)
    assert recipe.phases[1] == get_recipe("digits").phases[1]
    recipe = override(get_recipe("digits"), ["2.plateau_winsize=30,20", "2.lr_policy=plateau", "2.gamma=0.1",
                                             "2.type=Nesterov"])  # fmt: skip
    assert (recipe.phases[1].plateau_winsize, recipe.phases[1].type) == ((30, 20), "Nesterov")
    assert override(get_recipe("digits"), ["crop_size=300", "test_resize=320"]).test_resize == 320


@pytest.mark.parametrize(
    ("assignment", "line"),
    [
        ("base_lrr=1", "the unknown field 'base_lrr'"),
        ("3.base_lr=1", "phase: found '3', expected one of 1, 2"),
        ("base_lr=fast", "--set base_lr: found 'fast', expected a value of type float"),
        ("shuffle=maybe", "--set shuffle: found 'maybe'"),
        ("workers", "found 'workers', expected FIELD=VALUE"),
        ("workers=0", "workers: found 0, expected a positive number"),
        ("crop_size=16", "crop_size: found 16, expected 32 or more"),
        ("depth=51", "depth: found 51, expected one of 18, 34, 50, 101, 152"),
        ("1.max_iter=-1", "1.max_iter: found -1"),
        ("augmentation=test", "augmentation: found test"),
        ("lr_policy=step", "gamma: found none"),
        ("type=Adam", "1.type: found Adam, expected SGD or Nesterov"),
        ("plateau_winsize=9,x", "--set plateau_winsize: found '9,x'"),
        ("min_area=2", "found min_area 2.0"),
        ("test_resize=16", "test_resize: found 16, expected none, or crop_size (32) or more"),
        ("bn_eps=-1", "bn_eps: found -1.0, expected 0 or more"),
        ("moving_average_fraction=2", "moving_average_fraction: found 2.0, expected a number from 0 to 1"),
        ("2.base_lr=inf", "2.base_lr: found inf, expected a finite number"),
        ("gamma=nan", "1.gamma: found nan, expected a finite number"),
        ("classes=2147483648", "classes: found 2147483648, expected at most 2147483647"),
        ("2.resize=16", "2.resize: found 16, expected none, or crop_size (32) or more"),
    ],
)
def test_mistakes_are_named(assignment, line):
    with pytest.raises(InputError) as caught:
        override(get_recipe("digits"), [assignment])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_recipes_and_fields():
    with pytest.raises(
        InputError,
        match="found 'resnet', expected one of resnet50-448nodes, resnet50-64nodes-cyclic, "
        "cifar10, cifar10-cyclic, digits",
    ):
        get_recipe("resnet")
    with pytest.raises(InputError, match="colour"):
        from_dict({**to_dict(get_recipe("digits")), "colour": 1})


def test_a_run_from_before_lars_had_a_choice_goes_on_unfused():
    before = to_dict(override(get_recipe("digits"), ["2.local_lr_auto=true"]))
    for phase in before["phases"]:
        del phase["lars_norm"]
    assert [phase.lars_norm for phase in from_dict(before).phases] == ["fused", "unfused"]
    assert from_dict(to_dict(from_dict(before))) == from_dict(before)
