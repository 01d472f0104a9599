"""The input pipeline: each stage on one thread, then the whole loader on many, compared with a training step."""

import io
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from kernels import fast
from kernels.layout import STORED
from nptrain.bench import step
from nptrain.bench.timing import conditions, seconds
from nptrain.data.augment import Transform
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.data.loader import TrainLoader
from nptrain.data.sampler import AUGMENT, stream
from nptrain.data.storage import JPEG_QUALITY

SIDES = (341, 256)  # width and height: ImageNet's usual 4:3, after make_lmdb --resize 256


def measure(folder, records, batch, crop_size, repeats, decode_threads=None, rate=None, precision="float32"):
    """A row for each stage: ms per image, images/s, and how many cores it needs at `rate`, the images/s of a training
    step in the precision (None: measured here). `core_images_per_s` is the speed of each decoding core at which the
    step does not wait. `folder` is an LMDB (None: a temporary one of generated images).
    """
    head = conditions(batch, crop_size, repeats, precision)
    decode_threads = decode_threads or head["threads"]
    with dataset_of(folder, records) as dataset:
        records = min(records, len(dataset))
        timed_stages = [(name, 1, count, seconds(call, repeats))
                 for name, count, call in stages(dataset, records, batch, crop_size, precision)]  # fmt: skip
        steps = -(-records // batch)
        took = seconds(lambda: load(dataset, steps, batch, crop_size, decode_threads), repeats)
        timed_stages.append(("whole loader", decode_threads, steps * batch, took))
    rate = rate or step.measure(True, batch, crop_size, min(repeats, 3), precision=precision)["images_per_s"]
    rows = [{"stage": name, "decode_threads": threads, "ms_image": took / count * 1e3, "images_per_s": count / took,
             "cores": threads * rate * took / count} for name, threads, count, took in timed_stages]  # fmt: skip
    return {"rows": rows, "records": records, **head, "step_images_per_s": rate,
            "core_images_per_s": rate / decode_threads}  # fmt: skip


def stages(dataset, records, batch, crop_size, precision="float32"):
    """Yields (name, images, call) of each stage, which works on the results of the stage before."""
    train = Transform("random_aspect_ratio", crop_size)
    test = Transform("test", crop_size, resize=crop_size * 8 // 7)  # 224 of 256
    images = [dataset[index][0] for index in range(records)]
    rngs = [stream(0, AUGMENT, index) for index in range(records)]
    pixels = np.stack([test(images[index % records]) for index in range(batch)])
    packed = np.zeros(fast.activation_shape(*pixels.shape), STORED[precision])
    yield "read and decode", records, lambda: [dataset[index] for index in range(records)]
    yield "augment: crop, resize, mirror", records, lambda: list(map(train, images, rngs))
    yield "test: resize, crop", records, lambda: list(map(test, images))
    yield (
        "pack for the network",
        batch,
        lambda: fast.pack_images(pixels, step.RECIPE.mean_bgr, step.RECIPE.scale, packed.dtype, packed),
    )


def load(dataset, steps, batch, crop_size, threads):
    """Read `steps` batches from a training loader."""
    transform = Transform("random_aspect_ratio", crop_size)
    with TrainLoader(dataset, transform, seed=0, workers=1, batch_size=batch, my_workers=[0], stop_iteration=steps,
                     threads=threads) as loader:  # fmt: skip
        for _ in loader:
            pass


@contextmanager
def dataset_of(folder, records):
    """The data set in `folder` or, without one, a temporary one of `records` generated photographs."""
    if folder is not None:
        yield LmdbDataset(folder)
        return
    with tempfile.TemporaryDirectory(prefix="nptrain-bench-") as temporary:
        path, rng = Path(temporary) / "photographs", np.random.default_rng(0)
        write_lmdb(path, ((f"{i}.jpg", encoded_datum(photograph(rng), i % 1000)) for i in range(records)))
        yield LmdbDataset(path)


def photograph(rng):
    """The bytes of a JPEG that takes as long to decode as a photograph: noise with a falling spectrum, of 42 kB.
    ImageNet's median is 40 kB at this size and quality.
    """
    width, height = SIDES
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    f[0, 0] = np.inf  # the mean is set below
    planes = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, height, width))) / f**1.5, (height, width))
    grey, *colours = planes / planes.std(axis=(1, 2), keepdims=True)  # brightness varies most
    pixels = 128 + 50 * (grey + 0.3 * np.stack([colours[0], -colours[0] - colours[1], colours[1]]))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
