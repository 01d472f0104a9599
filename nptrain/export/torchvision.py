"""Weights of torchvision's ResNets: pixels are (pixel / 255 - MEAN) / STD, in the order R, G, B."""

from dataclasses import replace

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as torchvision's models document them
DIFFERENCE = (
    "scores are not torchvision's: its first max pool has a padding of 1 and this one has none, as Caffe's; "
    "train on with these weights, or measure them with bin/evaluate"
)


def recipe(base):
    """`base` with torchvision's preprocessing, as far as a recipe has it: mean, resize and crop. Its scale stays, and
    goes into the weights (`with_pixels_of`).
    """
    mean = tuple(round(255 * value, 6) for value in reversed(MEAN))
    return replace(base, mean_bgr=mean, crop_size=224, test_resize=256, bn_eps=1e-5, downsample="3x3")


def with_pixels_of(recipe, blobs):
    """{layer: blobs} for pixels as a recipe scales them, (pixel - mean) * scale: the deviations are divided out of the
    first convolution, whose channels are B, G, R.
    """
    weights, *bias = blobs["conv1"]
    factor = 1 / (255 * np.float64(STD[::-1]) * recipe.scale)
    return blobs | {"conv1": [(weights * factor[:, None, None]).astype(np.float32), *bias]}
