"""From a stored image to what the network sees: the recipe's transforms.

The original resizes with OpenCV (cubic, a = -0.75, no antialiasing), this with Pillow (a = -0.5, antialiased).
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from PIL import Image, ImageOps

from nptrain.data.datum import bgr

KINDS = ("random_aspect_ratio", "random_crop", "plain", "test")
ATTEMPTS = 10
GRID = 1000  # area ratios and aspect changes are multiples of 1/1000


@dataclass(frozen=True)
class Transform:
    """RGB image and random stream -> uint8 (3, crop_size, crop_size), BGR.

    kind                 random_aspect_ratio, random_crop, plain (nothing: the image has the size already) or test
    resize               shorter side before a random or centre crop; None: as stored
    mirror               flip half of the images (not in plain and test)
    min_area, max_area   share of the image's area that random_aspect_ratio cuts out
    aspect               and how far it may change the sides' ratio: uniform in [aspect, 1 / aspect]
    pad                  pixels put around the image, repeating its border, before a random crop

    Calling it raises ValueError if the crop is larger than the image.
    """

    kind: str
    crop_size: int
    resize: int | None = None
    mirror: bool = True
    min_area: float = 0.08
    max_area: float = 1.0
    aspect: float = 0.75
    pad: int = 0

    def __call__(self, image, rng=None):
        if self.kind == "random_aspect_ratio":
            return bgr(self._maybe_mirrored(self._random_aspect_ratio(image, rng), rng))
        if self.kind == "random_crop":
            image = self._resized(image)
            pixels = np.asarray(image)
            if self.pad:
                image = Image.fromarray(np.pad(pixels, ((self.pad,) * 2, (self.pad,) * 2, (0, 0)), mode="edge"))
            return bgr(self._maybe_mirrored(_random_crop(image, self.crop_size, rng), rng))
        if self.kind == "test":
            image = self._resized(image)
            _expect_room(image, self.crop_size)
            left, top = ((side - self.crop_size) // 2 for side in image.size)
            return bgr(image.crop((left, top, left + self.crop_size, top + self.crop_size)))
        if image.size != (self.crop_size, self.crop_size):
            raise ValueError(
                f"an image of {_size(image)}, expected {self.crop_size}x{self.crop_size} without a transform"
            )
        return bgr(image)

    def _random_aspect_ratio(self, image, rng):
        """A part of random area and aspect, resized to the crop; a random crop if none fits in ten attempts."""
        width, height = image.size
        for _ in range(ATTEMPTS):
            area = _on_grid(self.min_area, self.max_area, rng) * width * height
            change = _on_grid(self.aspect, 1 / self.aspect, rng)
            h, w = int(sqrt(area) * change), int(sqrt(area) / change)
            if rng.random() < 0.5:
                h, w = w, h
            if 0 < h <= height and 0 < w <= width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                part = image.crop((left, top, left + w, top + h))
                return part.resize((self.crop_size, self.crop_size), Image.Resampling.BICUBIC)
        return _random_crop(shorter_side_to(image, self.crop_size), self.crop_size, rng)

    def _resized(self, image):
        return image if self.resize is None else shorter_side_to(image, self.resize)

    def _maybe_mirrored(self, image, rng):
        return ImageOps.mirror(image) if self.mirror and rng.random() < 0.5 else image


def shorter_side_to(image, side):
    """The image resized (cubic) so that its shorter side is `side` and its aspect kept; as it is if it has that."""
    width, height = image.size
    shorter = min(width, height)
    if shorter == side:
        return image
    size = (max(side, round(width * side / shorter)), max(side, round(height * side / shorter)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _on_grid(low, high, rng):
    """Uniform in [low, high] on a grid of 1/1000."""
    return low + int(rng.integers(0, int((high - low) * GRID + 0.5) + 1)) / GRID


def _random_crop(image, size, rng):
    _expect_room(image, size)
    left, top = (int(rng.integers(0, side - size + 1)) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _expect_room(image, size):
    if min(image.size) < size:
        raise ValueError(f"an image of {_size(image)}, smaller than the crop of {size}, and no resize is asked for")


def _size(image):
    return "x".join(map(str, image.size))
