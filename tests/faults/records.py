"""Records and images that are changed at random, through the loader: each batch is right, or says what is wrong."""

import io
import shutil
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from nptrain.caffe.caffe_pb2 import Datum
from nptrain.data.datum import encoded_datum, raw_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.data.loader import TrainLoader
from nptrain.errors import InputError
from nptrain.recipes.published import get_recipe
from tests.fuzz import memory_folder, mutated

BLOCK = 100  # records of an LMDB
FORMATS = {"JPEG": {"quality": 90}, "PNG": {}, "GIF": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def originals():
    """Records of every kind, of images of 36x40."""
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.integers(0, 256, (8, 9, 3)), np.ones((5, 4, 1))).astype(np.uint8)
    image, found = Image.fromarray(smooth), []
    for kind, options in FORMATS.items():
        for each in (image, image.convert("L")):
            each.save(buffer := io.BytesIO(), kind, **options)
            found.append(encoded_datum(buffer.getvalue(), len(found)))
    image.save(buffer := io.BytesIO(), "JPEG", progressive=True)
    image.convert("CMYK").save(other := io.BytesIO(), "JPEG")
    found += [encoded_datum(buffer.getvalue(), 1), encoded_datum(other.getvalue(), 2)]
    return [*found, raw_datum(image, 3), raw_datum(image.convert("L"), 4)]


def changed(rng, records):
    """One of the records, changed: at random as any file; its image alone; or by the fields of another."""
    record = rng.choice(records)
    kind = rng.randrange(4)
    if kind < 2:
        return mutated(rng, record)
    datum = Datum.FromString(record)
    if kind == 2:
        datum.data = mutated(rng, datum.data)
        return datum.SerializeToString()
    other = Datum.FromString(rng.choice(records))
    for field in rng.sample(["channels", "height", "width", "data", "label", "encoded"], 2):
        value = getattr(other, field)
        if field in ("channels", "height", "width") and rng.random() < 0.5:
            value = rng.choice((0, -1, 1, 2, 2**31 - 1, -(2**31), 30_000))
        setattr(datum, field, value)
    return datum.SerializeToString()


def independent(record):
    """(pixels, label) of a record, by protobuf and Pillow alone."""
    datum = Datum.FromString(record)
    if datum.encoded:
        image = Image.open(io.BytesIO(datum.data))
        if image.mode.startswith("I;16"):
            return None, datum.label  # of 16 bits, the upper 8: Pillow would clip
        return np.asarray(image.convert("RGB")), datum.label
    planes = np.frombuffer(datum.data, np.uint8).reshape(datum.channels, datum.height, datum.width)
    return np.stack([planes[i % datum.channels] for i in (2, 1, 0)], 2), datum.label


class Counts(dict):
    """{what: how often}; `findings` are the tracebacks of what went wrong."""

    def __init__(self):
        super().__init__()
        self.findings = []

    def add(self, what, number=1):
        self[what] = self.get(what, 0) + number

    @contextmanager
    def finding(self, place):
        """What the block raises is a finding, for `place`."""
        try:
            yield
        except Exception:
            self.add("FINDINGS")
            self.findings.append(f"{place}:\n{traceback.format_exc()}")


def check_block(folder, records, counts):
    """Train's loader over an LMDB of these records. Every image that it accepts is that which Pillow decodes, in its
    place; a record that it refuses is named, with a line, and the next good one is in its place. AssertionError, else.
    """
    write_lmdb(folder, ((f"{number}", record) for number, record in enumerate(records)))
    dataset, transform = LmdbDataset(folder), get_recipe("digits").test_transform()
    good = {}
    for index, record in enumerate(records):
        with suppress(InputError):
            image, label = dataset[index]
            pixels, expected_label = independent(record)
            assert label == expected_label
            assert pixels is None or np.array_equal(np.asarray(image), pixels), record
            good[index] = transform(image, None), label
    counts.add("records", len(records))
    counts.add("records used", len(good))
    counts.add("records reported", len(records) - len(good))
    if not good:
        return
    loader = TrainLoader(dataset, transform, seed=1, workers=1, batch_size=len(records), my_workers=[0],
                         stop_iteration=1, shuffle=False, max_bad_records=len(records))  # fmt: skip
    with loader:
        (batch,) = loader
    for index in range(len(records)):
        used = next(
            (index + step) % len(records) for step in range(len(records)) if (index + step) % len(records) in good
        )
        image, label = good[used]
        assert np.array_equal(batch.images[index], image)
        assert batch.labels[index] == label
    assert loader.bad_records.keys() == set(range(len(records))) - good.keys()
    for index, line in loader.bad_records.items():
        assert line.startswith(dataset.where(index)[:50]), line
        assert line.isprintable(), line


def check_lmdb(folder, data, counts):
    """A changed data.mdb: what is read of it lies within the file, or a line says what is wrong."""
    folder.mkdir()
    (folder / "data.mdb").write_bytes(data)
    counts.add("LMDBs")
    try:
        dataset = LmdbDataset(folder)
    except InputError as error:
        counts.add("LMDBs reported")
        if not str(error).startswith(str(folder)):
            raise
        return
    for index in range(len(dataset)):
        with suppress(InputError):
            datum = dataset.datum(index)
            assert datum.data in data, "bytes that are not in the file"
            dataset[index]
    counts.add("LMDBs used")


def run(count, rng, alive):
    """Check so many changed records, and a tenth as many LMDBs; calls alive() for each. Returns the Counts."""
    counts, records = Counts(), originals()
    with tempfile.TemporaryDirectory(dir=memory_folder()) as name:
        folder = Path(name) / "set"
        write_lmdb(folder, ((f"{k}", records[k % len(records)]) for k in range(90)))
        whole = (folder / "data.mdb").read_bytes()
        shutil.rmtree(folder)
        for start in range(0, count, BLOCK):
            alive()
            block = [changed(rng, records) for _ in range(min(BLOCK, count - start))]
            with counts.finding(f"records {start} to {start + len(block) - 1}"):
                check_block(folder, block, counts)
            shutil.rmtree(folder)
            for number in range(len(block) // 10):
                alive()
                with counts.finding(f"LMDB {start // 10 + number}"):
                    check_lmdb(folder, mutated(rng, whole), counts)
                shutil.rmtree(folder)
    return counts
