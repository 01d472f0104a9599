"""A network and images made by formula, the same anywhere bit for bit, and what the original Caffe made of them.

golden.json holds the trajectory that the program of the published recipe printed, in double precision: ResNet-50
with 10 classes on 48 images of 64x64, batch 8, read in order; part 1 and part 2 both from the formula's weights.
Every number comes from raw 64-bit Philox output, which is stable in every NumPy.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from nptrain.network.layers import Architecture, layers
from nptrain.recipes.recipe import Phase, Recipe

NUMBERS = json.loads((Path(__file__).parent / "golden.json").read_text())
CLASSES, SIZE, IMAGES = 10, 64, 48


def uniform(name, count):
    """`count` float64 in [0, 1) of 24 random bits each, from the stream called `name`."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(count)
    return (raw >> np.uint64(40)).astype(np.float64) / 2**24


def weights():
    """{layer: blobs}, float32: uniform within sqrt(3) of the standard deviations of the recipe, else its constants."""
    found = {}
    for layer in layers(Architecture(50), CLASSES):
        found[layer.name] = []
        for blob in layer.blobs:
            values = np.full(blob.shape, blob.value, np.float32)
            if blob.std is not None:
                spread = (2 * uniform(layer.name, values.size) - 1) * (np.sqrt(3) * blob.std)
                values = spread.astype(np.float32).reshape(blob.shape)
            found[layer.name].append(values)
    return found


def images():
    """uint8 (48, 3, 64, 64), BGR, and labels: random blocks of 8x8 and fine noise."""
    pixels = np.empty((IMAGES, 3, SIZE, SIZE), np.uint8)
    for index in range(IMAGES):
        coarse = uniform(f"coarse {index}", 3 * 8 * 8).reshape(3, 8, 8)
        fine = uniform(f"fine {index}", 3 * SIZE * SIZE).reshape(3, SIZE, SIZE)
        pixels[index] = np.floor(200 * np.kron(coarse, np.ones((8, 8))) + 55 * fine)
    return pixels, [7 * index % CLASSES for index in range(IMAGES)]


def single(value):
    """Caffe keeps its hyper-parameters in single precision, whatever it computes in."""
    return float(np.float32(value))


def recipe(**changes):
    """The two parts of the golden run as a recipe; `changes` are made to both."""
    common = {"augmentation": "plain", "shuffle": False, "momentum": single(0.9), **changes}
    parts = [
        Phase("1", base_lr=single(0.0004), max_iter=6, power=1.0, warmup_iter=2, warmup_start_lr=single(0.0001),
              weight_decay=single(0.00005), **common),
        Phase("2", base_lr=single(0.0002), max_iter=3, power=2.0, weight_decay=single(0.0001), **common),
    ]  # fmt: skip
    return Recipe("golden", "the original's trajectory", tuple(parts), classes=CLASSES, crop_size=SIZE, workers=1,
                  batch_size=8, bn_eps=single(1e-5), moving_average_fraction=single(0.95))  # fmt: skip
