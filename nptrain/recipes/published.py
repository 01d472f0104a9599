"""The recipes that have names: the published ones, and small ones like them."""

from dataclasses import replace

from nptrain.errors import InputError
from nptrain.recipes.recipe import Phase, Recipe

CIFAR10 = (50_000, 10_000)  # records to train on and held out
_PART_1 = Phase(
    "1", base_lr=4.8, max_iter=8040, power=1.0, warmup_iter=446, warmup_start_lr=0.1, weight_decay=0.00005,
    snapshot=402, display=40, test_interval=402, augmentation="random_aspect_ratio")  # fmt: skip
_PART_2 = Phase(
    "2", base_lr=0.254, max_iter=402, power=2.0, weight_decay=0.0001, snapshot=402, display=40,
    augmentation="random_crop", starts_from=7638)  # fmt: skip
_CYCLE = replace(_PART_1, lr_policy="poly_cyc", power=2.0, warmup_iter=0, warmup_start_lr=0.0)
_COLLAPSE = replace(_PART_2, name="collapse", starts_from=None)


def _small_cycles():
    """The phases of 64 nodes at 0.08 of their iterations, with rates for batch 128."""
    common = {"weight_decay": 0.0005, "augmentation": "random_crop", "pad": 4, "snapshot": 0, "test_interval": 0}
    cycle = replace(_CYCLE, **common)
    return (
        replace(cycle, name="init", base_lr=0.03, power=1.0, max_iter=624, lr_iter=1498, warmup_iter=125,
                warmup_start_lr=0.001),
        replace(cycle, name="cyc1", base_lr=0.019, max_iter=300, lr_iter=600),
        replace(cycle, name="cyc2", base_lr=0.014, max_iter=380, lr_iter=600, warmup_iter=80, warmup_start_lr=0.005),
        replace(cycle, name="cyc3", base_lr=0.011, max_iter=380, lr_iter=600, warmup_iter=80, warmup_start_lr=0.0035),
        replace(_COLLAPSE, base_lr=0.0027, max_iter=125, weight_decay=0.002, snapshot=0),
    )  # fmt: skip


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "resnet50-448nodes",
            "ImageNet-1K at batch 14336: 90 epochs with warm-up, then the collapse (arXiv 1711.04291)",
            (_PART_1, _PART_2),
        ),
        Recipe(
            "resnet50-64nodes-cyclic",
            "ImageNet-1K at batch 4096: a long cycle, three short ones, then the collapse, 72 epochs in all",
            (
                replace(_CYCLE, name="init", base_lr=1.6, power=1.0, max_iter=7800, lr_iter=18720, warmup_iter=1560,
                        warmup_start_lr=0.1, snapshot=1560, test_interval=1560),
                replace(_CYCLE, name="cyc1", base_lr=1.02, max_iter=3750, lr_iter=7500, snapshot=1250,
                        test_interval=1250),
                replace(_CYCLE, name="cyc2", base_lr=0.764, max_iter=4750, lr_iter=7500, warmup_iter=1000,
                        warmup_start_lr=0.255, snapshot=950, test_interval=950),
                replace(_CYCLE, name="cyc3", base_lr=0.572, max_iter=4750, lr_iter=7500, warmup_iter=1000,
                        warmup_start_lr=0.19, snapshot=950, test_interval=950),
                replace(_COLLAPSE, base_lr=0.143, max_iter=1560, weight_decay=0.0002, snapshot=1560),
            ),
            workers=128, batch_size=32,
        ),
        Recipe(
            "cifar10",
            "CIFAR-10 as JPEG at 32x32, batch 128: 10 epochs, then the collapse",
            (
                replace(_PART_1, base_lr=0.03, max_iter=3906, warmup_iter=390, warmup_start_lr=0.001,
                        weight_decay=0.0005, snapshot=742, test_interval=742, augmentation="random_crop", pad=4),
                replace(_PART_2, base_lr=0.002, max_iter=390, weight_decay=0.001, snapshot=390, starts_from=3710),
            ),
            classes=10, crop_size=32, workers=2, batch_size=64, test_resize=None, records=CIFAR10,
        ),
        Recipe(
            "cifar10-cyclic",
            "CIFAR-10 as JPEG at 32x32, batch 128: the cycles and the collapse of 64 nodes, in 1809 iterations",
            _small_cycles(),
            classes=10, crop_size=32, workers=2, batch_size=64, test_resize=None, records=CIFAR10,
        ),
        Recipe(
            "digits",
            "handwritten digits at 32x32, batch 32: 15 epochs, then the collapse",
            (
                replace(_PART_1, base_lr=0.01, max_iter=675, warmup_iter=40, warmup_start_lr=0.001, snapshot=320,
                        test_interval=320, augmentation="random_crop", mirror=False, pad=1),
                replace(_PART_2, base_lr=0.0005, max_iter=45, snapshot=45, mirror=False, starts_from=640),
            ),
            classes=10, crop_size=32, workers=2, batch_size=16, test_resize=None, records=(1_437, 360),
        ),
    )
}  # fmt: skip


DEFAULT = "resnet50-448nodes"  # of commands that are given no recipe


def get_recipe(name):
    """The recipe of that name. Raises InputError, listing the names, if there is none."""
    if name not in RECIPES:
        raise InputError(f"--recipe: found {name!r}, expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
