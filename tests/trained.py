"""Networks whose scores differ as those of trained ones do, and runs that have made them."""

import io
import json
import tarfile

import numpy as np
from images import image
from PIL import Image
from shared import shared
from weights import write_layers

from kernels import fast
from nptrain.data.augment import center_crop
from nptrain.network.inference import Inference
from nptrain.network.resnet import ResNet
from nptrain.recipes.published import get_recipe
from nptrain.recipes.recipe import to_dict

PUBLISHED = get_recipe("resnet50-448nodes")


def photographs(size, count):
    """Smooth synthetic ones, uint8 (N, 3, size, size), BGR."""
    return np.stack([center_crop(image(seed, size + 9, size + 4), size) for seed in range(count)])


def real_photographs():
    """Three of ImageNet's, of 224; skips the calling test where they are not."""
    pixels = []
    with tarfile.open(shared("data/imagenet_samples.tar")) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".JPEG"))
        for name in names[:: len(names) // 3][:3]:
            with Image.open(io.BytesIO(archive.extractfile(name).read())) as photograph:
                pixels.append(PUBLISHED.test_transform()(photograph.convert("RGB")))
    return np.stack(pixels)


def trained(recipe, pixels):
    """A network with random weights and the running statistics of three batches, whose factor is not 1. Its scores
    differ as much as those of a trained one.
    """
    network = ResNet.of(recipe, fast)
    network.arena.initialise(seed=1)
    rng = np.random.default_rng(2)
    for parameter in network.arena.parameters:
        if parameter.kind == "Scale":
            parameter.w[...] += fast.pack_vector(rng.uniform(0.1, 0.4, parameter.blob.shape).astype(np.float32))
    for shift in (0, 40, 90):
        network.arena.batch_statistics[...] = 0
        other = np.clip(pixels.astype(int) + shift - 40, 0, 255).astype(np.uint8)
        network.forward(network.pack_images(other, recipe.mean_bgr, recipe.scale), np.zeros(len(pixels), np.int64))
        network.arena.blend_statistics(recipe.moving_average_fraction, 1, 1)
    scores = Inference(network)(network.pack_images(pixels, recipe.mean_bgr, recipe.scale))
    network.weights.w[...] *= 2 / scores.std()
    return network


def run_of(folder, recipe, network, classes=None):
    """A run's folder with a network's weights, and the names of its classes; returns the weights' path."""
    weights = folder / "checkpoints" / "w.caffemodel"
    weights.parent.mkdir(parents=True)
    entry = {"recipe": to_dict(recipe)} | ({"classes": classes} if classes else {})
    (folder / "run.json").write_text(json.dumps(entry))
    write_layers(weights, "ResNet", network.arena.export())
    return weights
