"""The trainer as a library: networks, recipes, data and training steps, for any number of ranks or for one process.

What most programs need can be imported from here; docs/library.md shows how. The kernels are handed in:
`from kernels import fast, naive`. Importing this package alone loads nothing else: a name is imported when it is first
used (PEP 562), so a program that only reads recipes starts no compiler.
"""

import importlib

_MODULES = {
    "ResNet": "nptrain.network.resnet",
    "Architecture": "nptrain.network.layers",
    "Inference": "nptrain.network.inference",
    "Recipe": "nptrain.recipes.recipe",
    "Phase": "nptrain.recipes.recipe",
    "RECIPES": "nptrain.recipes.published",
    "get_recipe": "nptrain.recipes.published",
    "photos": "nptrain.recipes.photos",
    "load_caffemodel": "nptrain.run.checkpoint",
    "train_step": "nptrain.step",
    "Reduction": "nptrain.step",
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
