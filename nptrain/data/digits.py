"""Handwritten digits as LMDBs: real images for a first run, 1437 to train on, 360 held out; from DIGITS.md."""

import gzip
import io
from pathlib import Path

import numpy as np
from PIL import Image

from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb

FILE = Path(__file__).with_name("digits.csv.gz")
TRAIN = 1437
SIDE = 32


def load_digits():
    """(images, labels): uint8 (1797, 8, 8), grey values from 0 to 16, and int64 (1797,)."""
    with gzip.open(FILE, "rt") as file:
        table = np.loadtxt(file, np.int64, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1]


def write_digits(folder):
    """Write folder/train and folder/val: PNG-encoded 32x32 images, the 8x8 originals enlarged (cubic).

    The held-out part is the set's last 360, mostly by other writers than the first. Returns {name: records}.
    """
    images, labels = load_digits()

    def records(numbers):
        for number in numbers:
            small = Image.fromarray((images[number] * (255 / 16)).astype(np.uint8))
            file = io.BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(file, "PNG")
            yield f"digit_{number}", encoded_datum(file.getvalue(), int(labels[number]))

    parts = {"train": range(TRAIN), "val": range(TRAIN, len(labels))}
    for name, numbers in parts.items():
        write_lmdb(Path(folder) / name, records(numbers), [str(digit) for digit in range(10)])
    return {name: len(numbers) for name, numbers in parts.items()}
