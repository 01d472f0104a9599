"""The values that a recipe may have."""

from dataclasses import fields
from math import isfinite

from nptrain.data.augment import KINDS
from nptrain.errors import InputError
from nptrain.network.layers import DEPTHS, DOWNSAMPLE, STATISTICS, layers
from nptrain.recipes.schedule import check_policy

MOST = 2**31 - 1
PRECISIONS = ("float32", "bf16")


def _one_of(values):
    return lambda value: value in values, f"one of {', '.join(map(str, values))}"


POSITIVE = (lambda value: value > 0, "a positive number")
NONE_OR_POSITIVE = (lambda value: value is None or value > 0, "none, or a positive number")
NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")

# (fields, (condition, what is expected)) of a Recipe and of each of its Phases
RECIPE_RULES = (
    (("classes", "workers", "batch_size", "scale"), POSITIVE),
    (("bn_eps",), NOT_NEGATIVE),
    (("moving_average_fraction",), (lambda value: 0 <= value <= 1, "a number from 0 to 1")),
    (("crop_size",), (lambda value: value >= 32, "32 or more")),
    (("depth",), _one_of(DEPTHS)),
    (("downsample",), _one_of(DOWNSAMPLE)),
    (("precision",), _one_of(PRECISIONS)),
    (("width",), (lambda value: value > 0 and value % 16 == 0, "a multiple of 16")),
    (("test_batch_size",), NONE_OR_POSITIVE),
    (("mean_bgr",), (lambda value: len(value) == 3, "three values")),
)
PHASE_RULES = (
    (("max_iter", "iter_size", "average_loss", "prefetch", "max_attempt"), POSITIVE),
    (
        ("base_lr", "weight_decay", "warmup_iter", "warmup_start_lr", "snapshot", "display", "test_interval", "pad"),
        NOT_NEGATIVE,
    ),
    (("test_iter", "batch_size"), NONE_OR_POSITIVE),
    (("momentum",), (lambda value: 0 <= value < 1, "a number from 0 to below 1")),
    (("type",), (lambda value: value in ("SGD", "Nesterov"), "SGD or Nesterov")),
    (("regularization",), (lambda value: value in ("L1", "L2"), "L1 or L2")),
    (("lars_norm",), _one_of(("fused", "unfused"))),
    (("augmentation",), _one_of([kind for kind in KINDS if kind != "test"])),
)


def check(recipe):
    """Raise InputError unless every value of a Recipe, and of its Phases, makes sense."""
    _check_fields(recipe, RECIPE_RULES)
    expect(recipe.downsample == "3x3" or DEPTHS[recipe.depth][1], "downsample", recipe.downsample,
           f"3x3: the blocks of depth {recipe.depth} have no 1x1 convolution")  # fmt: skip
    expect(not recipe.first_projection or not DEPTHS[recipe.depth][1], "first_projection", True,
           f"false: the first block of depth {recipe.depth} has a projection in any case")  # fmt: skip
    _check_blob_overrides(recipe)
    prefixes = [phase.snapshot_prefix for phase in recipe.phases if phase.snapshot_prefix is not None]
    expect(
        len(set(prefixes)) == len(prefixes), "snapshot_prefix", ", ".join(prefixes), "a different one in every phase"
    )
    for phase in recipe.phases:
        _check_phase(phase, recipe)
    _check_resize("test_resize", recipe.test_resize, recipe)
    _check_numbers(recipe)
    for phase in recipe.phases:
        _check_numbers(phase, f"{phase.name}.")


def _check_phase(phase, recipe):
    name = f"{phase.name}."
    _check_fields(phase, PHASE_RULES, name)
    expect(phase.type == "SGD" or not phase.momentum_correction, f"{name}momentum_correction", True,
           "false: the original has it for SGD alone")  # fmt: skip
    check_policy(phase)
    _check_resize(f"{name}resize", phase.resize, recipe)
    phase.train_transform(recipe)  # checks its values


def _check_fields(owner, rules, prefix=""):
    for names, (condition, expected) in rules:
        for name in names:
            value = getattr(owner, name)
            expect(condition(value), prefix + name, value, expected)


def _check_resize(name, value, recipe):
    expect(value is None or value >= recipe.crop_size, name, value, f"none, or crop_size ({recipe.crop_size}) or more")


def _check_numbers(owner, prefix=""):
    for field in fields(owner):
        value = getattr(owner, field.name)
        expect(not isinstance(value, float) or isfinite(value), prefix + field.name, value, "a finite number")
        expect(not isinstance(value, int) or value <= MOST, prefix + field.name, value, f"at most {MOST}")


def _check_blob_overrides(recipe):
    if not recipe.blob_overrides:
        return
    table = {layer.name: len(layer.blobs) for layer in layers(recipe.architecture) if layer.kind != STATISTICS}
    may_be_none = {"lr_mult": False, "decay_mult": False, "value": False, "std": True, "bound": True}
    for change in recipe.blob_overrides:
        expect(len(change) == 4, "blob_overrides", change, "(layer, index, field, value)")
        layer, index, field, value = change
        trained = index in range(table.get(layer, 0))
        expect(trained, "blob_overrides", change, "a blob of a layer of the network that is trained")
        expect(field in may_be_none, "blob_overrides", change, f"one of {', '.join(may_be_none)}")
        is_number = isinstance(value, int | float) or (value is None and may_be_none[field])
        expect(is_number, "blob_overrides", change, "a number")


def expect(condition, field, found, expected):
    """Raise InputError unless the condition holds."""
    if not condition:
        raise InputError(f"{field}: found {found}, expected {expected}")
