"""From a stored image to the network's input: the transforms of the recipes.

Each takes a PIL RGB image and returns uint8 (3, size, size), channels in the order B, G, R. Resizing is
Pillow's bicubic (a = -0.5, antialiased); the original program used OpenCV's (a = -0.75, not antialiased),
so shrunk images are smoother here.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from nptrain.data.datum import MAX_PIXELS
from nptrain.errors import InputError

KINDS = ("random_aspect_ratio", "random_crop", "test", "plain")


@dataclass(frozen=True)
class Transform:
    """A choice of transform with its parameters: call it with a PIL image and a Generator.

    `kind` is "random_aspect_ratio" (which takes `min_area`, `max_area`, `aspect`, `max_attempt` and `mirror`),
    "random_crop" (`resize`, `pad` and `mirror`), "test" (`resize`) or "plain" (nothing: the image must
    have the right size). Raises InputError for an unknown kind and for ranges that make no sense; when called, for
    an image that is too small to be cropped.
    """

    kind: str
    crop_size: int
    resize: int | None = None
    mirror: bool = True
    min_area: float = 0.08
    max_area: float = 1.0
    aspect: float = 0.75
    max_attempt: int = 10
    pad: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"augmentation: found {self.kind!r}, expected one of {', '.join(KINDS)}")
        if not (0 < self.min_area <= self.max_area <= 1 and 0 < self.aspect <= 1):
            raise InputError(
                f"augmentation: found min_area {self.min_area}, max_area {self.max_area}, aspect {self.aspect}: "
                "expected 0 < min_area <= max_area <= 1 and 0 < aspect <= 1"
            )

    def __call__(self, image, rng=None):
        size = self.crop_size
        if self.kind == "random_aspect_ratio":
            ranges = self.min_area, self.max_area, self.aspect, self.max_attempt
            return random_aspect_ratio(image, size, rng, self.mirror, *ranges)
        if self.kind == "random_crop":
            return random_crop(image, size, rng, self.mirror, self.resize, self.pad)
        if self.kind == "test":
            return center_crop(image, size, self.resize)
        if image.size != (size, size):
            raise InputError(f"found an image of {_size(image)}, expected {size}x{size}")
        return bgr_planes(image)


def random_aspect_ratio(image, size, rng, mirror=True, min_area=0.08, max_area=1.0, aspect=0.75, max_attempt=10):
    """A random part of the image, of random area and aspect, resized to `size`; mirrored half the time.

    Area ratio and aspect change are drawn from grids of 0.001, [min_area, max_area] and
    [aspect, 1 / aspect]. If max_attempt attempts give no part that fits, it is a random crop of the image whose
    shorter side was resized to `size`.
    """
    width, height = image.size
    for _ in range(max_attempt):
        area = _grid(rng, min_area, max_area) * width * height
        change = _grid(rng, aspect, 1 / aspect)
        h, w = int(area**0.5 * change), int(area**0.5 / change)
        if rng.random() < 0.5:
            h, w = w, h
        if 0 < h <= height and 0 < w <= width:
            y, x = rng.integers(height - h, endpoint=True), rng.integers(width - w, endpoint=True)
            # cropped first: the filter must not use pixels outside the part
            part = image.crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BICUBIC)
            return bgr_planes(part, mirror and rng.random() < 0.5)
    return random_crop(image, size, rng, mirror, resize=size)


def random_crop(image, size, rng, mirror=True, resize=None, pad=0):
    """A random crop, mirrored half the time, of the image as stored, or after its shorter side was resized to
    `resize`, or its border pixels repeated `pad` times all around. Raises InputError if the crop is larger."""
    if resize:
        image = shorter_side(image, resize)
    if pad:
        image = Image.fromarray(np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
    _check_crop(image, size)
    y = rng.integers(image.height - size, endpoint=True)
    x = rng.integers(image.width - size, endpoint=True)
    return bgr_planes(image.crop((x, y, x + size, y + size)), mirror and rng.random() < 0.5)


def center_crop(image, size, resize=None):
    """The test transform: shorter side to `resize` (None: as stored), then the crop in the middle.

    Raises InputError if the crop is larger than the image.
    """
    if resize:
        image = shorter_side(image, resize)
    _check_crop(image, size)
    x, y = (image.width - size) // 2, (image.height - size) // 2
    return bgr_planes(image.crop((x, y, x + size, y + size)))


def shorter_side(image, size):
    """The image resized so that its shorter side is `size` pixels, the longer in proportion. Raises InputError for a
    strip that would have more than MAX_PIXELS.
    """
    scale = size / min(image.size)
    shape = tuple(max(size, round(side * scale)) for side in image.size)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise InputError(
            f"found an image of {_size(image)}, which would be {shape[0]}x{shape[1]} with a shorter side of {size}: "
            f"expected at most {MAX_PIXELS} pixels"
        )
    return image if shape == image.size else image.resize(shape, Image.Resampling.BICUBIC)


def bgr_planes(image, mirror=False):
    """A PIL RGB image as uint8 (3, height, width), B first; mirrored left to right if `mirror`."""
    planes = np.asarray(image).transpose(2, 0, 1)[::-1]
    return np.ascontiguousarray(planes[:, :, ::-1] if mirror else planes)


def _grid(rng, low, high):
    """A number from `low`, low + 0.001, ... up to `high`, all equally likely."""
    return low + 0.001 * rng.integers(int((high - low) * 1000 + 1e-6), endpoint=True)


def _check_crop(image, size):
    if min(image.size) < size:
        raise InputError(f"found an image of {_size(image)}, smaller than the crop of {size}x{size}")


def _size(image):
    return f"{image.width}x{image.height} pixels"
