"""scikit-learn's handwritten digits as LMDBs: real images for a first run, 1437 to train on, 360 held out."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import write_lmdb

TRAIN = 1437
SIDE = 32


def write_digits(folder):
    """Write folder/train and folder/val: PNG-encoded 32x32 images, the 8x8 originals enlarged (cubic).

    The held-out part is the set's last 360, from other writers than most of the first. Returns {name: records}.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()

    def records(numbers):
        for number in numbers:
            small = Image.fromarray((digits.images[number] * (255 / 16)).astype(np.uint8))
            file = io.BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(file, "PNG")
            yield f"digit_{number}", encoded_datum(file.getvalue(), int(digits.target[number]))

    total = len(digits.target)
    parts = {"train": range(TRAIN), "val": range(TRAIN, total)}
    for name, numbers in parts.items():
        write_lmdb(Path(folder) / name, records(numbers))
    return {name: len(numbers) for name, numbers in parts.items()}
