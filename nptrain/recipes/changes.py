"""Changes of a recipe in its user's terms: the size of the crop, the rates, layers that are not trained."""

from dataclasses import replace

from nptrain.errors import InputError
from nptrain.network.layers import STATISTICS, layers

PARTS = ("stem", "2", "3", "4", "5")  # of the network, which can be left as they are: the stem, and the stages
HEAD = "fc1000"


def with_crop(recipe, size, test_resize=None):
    """The recipe with images of `size` pixels a side. The shorter side before the crop is `test_resize`, or in the same
    proportion as before, in tests and in those phases that crop at random from resized or stored images.
    """

    def scaled(resize):
        return resize and max(size, round(resize * size / recipe.crop_size))

    whole = test_resize or scaled(recipe.test_resize)
    phases = tuple(
        replace(p, resize=test_resize or scaled(p.resize) or whole)
        if p.augmentation == "random_crop" and not p.pad
        else p
        for p in recipe.phases
    )
    return replace(recipe, crop_size=size, test_resize=whole, phases=phases)


def with_rate(recipe, rate):
    """The recipe with the base rate `rate` in its first phase, and all other rates in proportion."""
    first = recipe.phases[0].base_lr
    if not first:
        raise InputError(f"--lr: found {rate}, but the first phase has base_lr 0, expected --set of each rate")

    def scaled(value):
        return rate if value == first else float(f"{value * rate / first:.3g}")  # it prints as it is

    phases = tuple(
        replace(p, base_lr=scaled(p.base_lr), warmup_start_lr=scaled(p.warmup_start_lr)) for p in recipe.phases
    )
    return replace(recipe, phases=phases)


def frozen(recipe, parts):
    """The recipe in which the layers of `parts`, of PARTS, have a rate of 0: their weights stay what they are, to the
    last bit. The running statistics of their batch norms follow the new images, as in PyTorch with requires_grad=False.
    """
    for part in parts:
        if part not in PARTS:
            raise InputError(f"--freeze: found {part!r}, expected names of {', '.join(PARTS)} with commas between them")
    return _with_multipliers(recipe, lambda layer, blob: 0.0 if part_of(layer.name) in parts else None)


def with_head_rate(recipe, factor):
    """The recipe whose classifier learns `factor` times as fast as it did."""
    return _with_multipliers(recipe, lambda layer, blob: factor * blob.lr_mult if layer.name == HEAD else None)


def part_of(layer):
    """The part of the network that a layer is in: one of PARTS; of the classifier, its own name."""
    if layer.endswith("conv1"):
        return "stem"
    return layer.removeprefix("res").removeprefix("bn").removeprefix("scale")[0] if layer != HEAD else layer


def _with_multipliers(recipe, multiplier):
    """The recipe with lr_mult = multiplier(layer, blob) for each blob that is trained, where that is not None."""
    changes = []
    for layer in layers(recipe.architecture, recipe.classes, recipe.blob_overrides):
        for index, blob in enumerate(layer.blobs if layer.kind != STATISTICS else ()):
            value = multiplier(layer, blob)
            if value is not None and value != blob.lr_mult:
                changes.append((layer.name, index, "lr_mult", value))
    changed = {change[:3] for change in changes}
    kept = tuple(change for change in recipe.blob_overrides if tuple(change[:3]) not in changed)
    return replace(recipe, blob_overrides=(*kept, *changes))
