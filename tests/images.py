"""Small images, image files and data sets that the tests of the data side make for themselves."""

import io

import numpy as np
from PIL import Image

from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb


def image(seed=0, width=20, height=16, mode="RGB"):
    """A smooth random PIL image (so that JPEG changes it little); every seed another."""
    rng = np.random.Generator(np.random.Philox(seed))
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def image_file(picture, kind="PNG", **options):
    """The bytes of a PIL image as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def make_dataset(path, records, **size):
    """An LMDB of `records` different PNG images; the label of record i is i % 5."""
    write_lmdb(path, ((f"{i}.png", encoded_datum(image_file(image(i, **size)), i % 5)) for i in range(records)))
    return path
