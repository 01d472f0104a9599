"""One record of a data set, Caffe's Datum: to and from bytes, to an image."""

import io
import logging
import warnings

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from nptrain.caffe.caffe_pb2 import Datum
from nptrain.errors import InputError

# The formats that Pillow may try: some of its other readers start programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
# A small file can claim any size: larger images are refused. Decoding one of this size takes less than a gigabyte.
MAX_PIXELS = 64_000_000
TIFF_TILE = 322, 323  # tags: width and length of the tiles, which may be larger than the image


def silence_pillow():
    """Keep Pillow from printing warnings, in the whole process: about odd files that can be read, and about large
    images, which MAX_PIXELS refuses. Commands call it; a program that imports this package decides for itself.
    """
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def encoded_datum(file, label):
    """The record (bytes) of an image file's bytes, as `convert_imageset --encoded` writes it."""
    return Datum(data=file, label=label, encoded=True).SerializeToString()


def raw_datum(image, label):
    """The record (bytes) of a PIL image (RGB; or L: one channel) as uint8 planes, BGR, as `convert_imageset` writes."""
    pixels = np.atleast_3d(np.asarray(image))
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[::-1])
    channels, height, width = planes.shape
    return Datum(
        channels=channels, height=height, width=width, data=planes.tobytes(), label=label, encoded=False
    ).SerializeToString()


def parse_datum(record, where):
    """The Datum in `record` (bytes). Raises InputError, beginning with `where`, if it is not one."""
    try:
        datum = Datum.FromString(record)
    except DecodeError:
        raise InputError(f"{where}: found {len(record)} bytes that are not a Datum") from None
    if datum.float_data:
        raise InputError(f"{where}: found a Datum of floats: expected an encoded image or raw uint8 planes")
    if not datum.data or not datum.HasField("label"):
        missing = "label" if datum.data else "image data"
        raise InputError(f"{where}: found {len(record)} bytes that are not a Datum, or one without {missing}")
    return datum


def decode(datum, where):
    """The image of a Datum, as PIL RGB. Raises InputError, beginning with `where`, if it does not decode."""
    if datum.encoded:
        return decode_file(datum.data, where)
    channels, height, width = shape = (datum.channels, datum.height, datum.width)
    if channels not in (1, 3) or min(height, width) <= 0 or channels * height * width != len(datum.data):
        raise InputError(
            f"{where}: found {len(datum.data)} bytes of raw data for channels, height, width {shape}: "
            "expected 1 or 3 full planes"
        )
    if height * width > MAX_PIXELS:
        raise InputError(f"{where}: found {width}x{height} pixels, expected at most {MAX_PIXELS}")
    pixels = np.frombuffer(datum.data, np.uint8).reshape(shape)[::-1].transpose(1, 2, 0)
    return Image.fromarray(np.repeat(pixels, 3 // channels, axis=2))


def decode_file(file, where):
    """Decode an image file's bytes to PIL RGB: alpha is dropped, an EXIF orientation is not applied.

    Raises InputError, beginning with `where`, for a file that is not an image, or one that is damaged, cut short or
    larger than MAX_PIXELS.
    """
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        tags = getattr(image, "tag_v2", {})
        if tags.get(TIFF_TILE[0], 0) * tags.get(TIFF_TILE[1], 0) > MAX_PIXELS:
            raise ValueError(f"tiles of more than {MAX_PIXELS} pixels")
        if image.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Image.UnidentifiedImageError:
        raise InputError(f"{where}: found {len(file)} bytes that are not an image file") from None
    except Exception as error:  # each of Pillow's readers fails in its own ways
        raise InputError(f"{where}: the image does not decode: {error}") from None
