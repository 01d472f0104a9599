"""The trainer as a library: networks, recipes, data and training steps, for any number of ranks or for one process.

What most programs need can be imported from here; docs/library.md shows how. The kernels are handed in:
`from kernels import fast, naive`. Importing this package alone loads nothing else: a name is imported when it is first
used (PEP 562), so a program that only reads recipes starts no compiler.
"""

import importlib
import sys
from types import ModuleType

_MODULES = {
    "ResNet": "nptrain.network.resnet",
    "Inference": "nptrain.network.inference",
    "Recipe": "nptrain.recipes.recipe",
    "Phase": "nptrain.recipes.recipe",
    "RECIPES": "nptrain.recipes.published",
    "get_recipe": "nptrain.recipes.published",
    "photos": "nptrain.recipes.photos",
    "load_weights": "nptrain.run.checkpoint",
    "train_step": "nptrain.train_step",
    "Reduction": "nptrain.train_step",
    "evaluate": "nptrain.evaluate",
    "Solo": "nptrain.world",
    "LmdbDataset": "nptrain.data.lmdb_dataset",
    "TrainLoader": "nptrain.data.loader",
    "Batch": "nptrain.data.loader",
}  # name: the module that defines it

__all__ = list(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted(__all__)


class _Package(ModuleType):
    """`train_step` and `evaluate` are also names of modules, which Python would put in the place of the functions."""

    def __setattr__(self, name, value):
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
