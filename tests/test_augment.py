"""The three transforms, checked against the recipe's words, pixel by pixel where they say so."""

import numpy as np
import pytest
from images import image
from PIL import Image

from nptrain.data.augment import Transform, bgr_planes, center_crop, random_aspect_ratio, random_crop, shorter_side
from nptrain.data.sampler import generator
from nptrain.errors import InputError


def rng(i=0):
    return generator(1, i, 0, 0, 0)


def coordinates(width, height):
    """An image whose red is its column and green its row."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 9)], axis=2))


def test_bgr_planes():
    planes = bgr_planes(coordinates(5, 3))
    assert planes.dtype == np.uint8
    assert planes.shape == (3, 3, 5)
    assert planes.flags.c_contiguous
    assert (planes[0] == 9).all()
    assert (planes[1] == np.arange(3)[:, None]).all()
    assert (planes[2] == np.arange(5)).all()
    assert (bgr_planes(coordinates(5, 3), mirror=True) == planes[:, :, ::-1]).all()


def test_random_crop_covers_every_place_and_both_hands():
    seen = set()
    for i in range(400):
        crop = random_crop(coordinates(9, 7), 5, rng(i))
        y, x, right = int(crop[1, 0, 0]), int(crop[2, 0, 0]), int(crop[2, 0, -1])
        assert abs(right - x) == 4
        mirrored = right < x
        left = min(x, right)
        expected = bgr_planes(coordinates(9, 7))[:, y : y + 5, left : left + 5]
        assert (crop == (expected[:, :, ::-1] if mirrored else expected)).all()
        seen.add((y, left, mirrored))
    assert seen == {(y, x, m) for y in range(3) for x in range(5) for m in (False, True)}


def test_random_crop_pads_and_resizes():
    seen = set()
    for i in range(300):
        crop = random_crop(coordinates(6, 6), 6, rng(i), mirror=False, pad=2)
        y, x = crop[1, :, 0].astype(int), crop[2, 0].astype(int)
        top, left = next((t, s) for t in range(-2, 3) for s in range(-2, 3)
                         if (y == np.clip(np.arange(t, t + 6), 0, 5)).all()
                         and (x == np.clip(np.arange(s, s + 6), 0, 5)).all())  # fmt: skip
        seen.add((top, left))
    assert len(seen) == 25
    crop = random_crop(image(1, 40, 30), 10, rng(), mirror=False, resize=10)
    small = bgr_planes(shorter_side(image(1, 40, 30), 10))
    assert any((crop == small[:, :, x : x + 10]).all() for x in range(4))


def test_center_crop():
    """(h - size) // 2, of the resized image if it is resized."""
    crop = center_crop(coordinates(12, 9), 4)
    assert crop[1, :, 0].tolist() == [2, 3, 4, 5]
    assert crop[2, 0].tolist() == [4, 5, 6, 7]
    big = image(2, 100, 60)
    resized = big.resize((427, 256), Image.Resampling.BICUBIC)
    assert (center_crop(big, 224, resize=256) == bgr_planes(resized)[:, 16:240, 101:325]).all()


def test_shorter_side():
    assert shorter_side(image(1, 500, 375), 256).size == (341, 256)
    assert shorter_side(image(1, 100, 333), 256).size == (256, 852)
    assert shorter_side(image(1, 256, 300), 256).size == (256, 300)
    assert shorter_side(image(1, 3000, 2), 7).size[1] == 7


class Boxes:
    """A stand-in image that notes the parts cut out of it."""

    def __init__(self, width, height):
        self.size, self.width, self.height = (width, height), width, height
        self.boxes = []

    def crop(self, box):
        self.boxes.append(box)
        return coordinates(8, 8)

    def resize(self, size, resample):
        assert resample == Image.Resampling.BICUBIC
        return coordinates(*size)


def test_random_aspect_ratio_draws_what_the_recipe_says():
    picture = Boxes(300, 200)
    for i in range(4000):
        assert random_aspect_ratio(picture, 8, rng(i)).shape == (3, 8, 8)
    boxes = np.array(picture.boxes)
    assert len(boxes) > 3990
    x0, y0, x1, y1 = boxes.T
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= 300).all()
    assert (y1 <= 200).all()
    w, h = x1 - x0, y1 - y0
    area, ratio = w * h / 60_000, w / h
    assert area.min() == pytest.approx(0.08, abs=0.004)
    assert 0.9 < area.max() <= 1
    # The change applies to both sides: h = sqrt(area) a, w = sqrt(area) / a, so w / h is a**-2, a in [0.75, 1.333].
    assert ratio.min() == pytest.approx(0.75**2, rel=0.04)
    assert ratio.max() == pytest.approx(0.75**-2, rel=0.04)
    small = area < 0.3  # always fits: uniform in area, the two orientations alike
    assert np.histogram(area[small], 4, (0.08, 0.3))[0] == pytest.approx(small.sum() / 4, rel=0.15)
    # a is in [0.75, 1) with probability 0.25 / 0.583 and the swap makes the two orientations alike.
    assert (ratio[small] > 1).mean() == pytest.approx(0.5, abs=0.05)
    assert {0, 1} <= set(x0[w > 290])
    inside = (w == 150) | (w == 151)
    assert np.corrcoef(x0[inside], y0[inside])[0, 1] < 0.3


def test_random_aspect_ratio_resizes_the_part_it_drew():
    picture = coordinates(64, 48)
    for i in range(20):
        planes = random_aspect_ratio(picture, 16, rng(i), mirror=False).astype(float)
        assert (np.diff(planes[2].mean(0)) > 0).all(), "columns in order"
        assert (np.diff(planes[1].mean(1)) > 0).all(), "rows in order"
    flat = random_aspect_ratio(image(3, 20, 20), 20, rng(), mirror=False, min_area=1, aspect=1)
    assert (flat == bgr_planes(image(3, 20, 20))).all(), "all of the image"


def test_random_aspect_ratio_mirrors_half():
    mirrored = sum(
        p[2, 0, 0] > p[2, 0, -1] for p in (random_aspect_ratio(coordinates(64, 48), 8, rng(i)) for i in range(400))
    )
    assert 160 < mirrored < 240
    assert not any(
        p[2, 0, 0] > p[2, 0, -1]
        for p in (random_aspect_ratio(coordinates(64, 48), 8, rng(i), mirror=False) for i in range(50))
    )


def test_random_aspect_ratio_falls_back_to_a_crop():
    """No part of this strip with the drawn area is narrow enough."""
    strip = coordinates(200, 4)
    found = random_aspect_ratio(strip, 8, rng(), mirror=False, min_area=0.9)
    resized = bgr_planes(shorter_side(strip, 8))
    assert any((found == resized[:, :, x : x + 8]).all() for x in range(resized.shape[2] - 7))


@pytest.mark.parametrize("kind", ["random_aspect_ratio", "random_crop", "test", "plain"])
def test_transform_is_its_function(kind):
    picture = image(4, 24, 24)
    found = Transform(kind, 24, mirror=False)(picture, rng())
    expected = {
        "random_aspect_ratio": lambda: random_aspect_ratio(picture, 24, rng(), mirror=False),
        "random_crop": lambda: random_crop(picture, 24, rng(), mirror=False),
        "test": lambda: center_crop(picture, 24),
        "plain": lambda: bgr_planes(picture),
    }[kind]()
    assert (found == expected).all()
    assert found.dtype == np.uint8
    assert (Transform(kind, 24)(picture, rng(7)) == Transform(kind, 24)(picture, rng(7))).all()


def test_every_parameter_counts():
    picture = image(5, 60, 40)

    def outcomes(kind, **parameters):
        return [Transform(kind, 16, **parameters)(picture, rng(i)).tobytes() for i in range(8)]

    base = outcomes("random_aspect_ratio")
    for change in ({"mirror": False}, {"min_area": 0.5}, {"max_area": 0.5}, {"aspect": 0.9}):
        assert outcomes("random_aspect_ratio", **change) != base
    base = outcomes("random_crop")
    for change in ({"mirror": False}, {"resize": 20}, {"pad": 3}):
        assert outcomes("random_crop", **change) != base
    assert outcomes("test", resize=20) != outcomes("test")


def test_errors():
    for kind in ("random_crop", "test"):
        with pytest.raises(InputError, match="found an image of 20x16 pixels, smaller than the crop of 17x17"):
            Transform(kind, 17)(image(), rng())
    with pytest.raises(InputError, match="found an image of 20x16 pixels, expected 16x16"):
        Transform("plain", 16)(image())
    with pytest.raises(InputError, match="augmentation: found 'crop', expected one of random_aspect_ratio, "):
        Transform("crop", 16)
    with pytest.raises(InputError, match=r"augmentation: found min_area 0.5, max_area 0.4"):
        Transform("random_aspect_ratio", 16, min_area=0.5, max_area=0.4)
