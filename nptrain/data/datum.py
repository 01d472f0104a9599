"""One record of a data set, Caffe's Datum: to and from bytes, to an image."""

import io
import logging
import warnings
from contextlib import contextmanager

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
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262  # tags: bits of each channel; 0, if white is 0
# Modes of Pillow that it would clip to 0..255, which makes most images black or white.
DEEP = {"I": "signed or 32-bit integers", "F": "floating-point numbers"}


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
    shape = _raw_shape(datum, where)
    pixels = np.frombuffer(datum.data, np.uint8).reshape(shape)[::-1].transpose(1, 2, 0)
    return Image.fromarray(np.repeat(pixels, 3 // datum.channels, axis=2))


def header(datum, where):
    """((width, height), channels, coding) of a Datum, without decoding its pixels: coding is "raw", or Pillow's name of
    the file's format. Raises InputError, beginning with `where`, for what `decode` refuses before it decodes.
    """
    if datum.encoded:
        image = open_file(datum.data, where)
        return image.size, len(image.getbands()), image.format
    channels, height, width = _raw_shape(datum, where)
    return (width, height), channels, "raw"


def _raw_shape(datum, where):
    """(channels, height, width) of a raw Datum, which must be those of its bytes."""
    channels, height, width = shape = (datum.channels, datum.height, datum.width)
    if channels not in (1, 3) or min(height, width) <= 0 or channels * height * width != len(datum.data):
        raise InputError(
            f"{where}: found {len(datum.data)} bytes of raw data for channels, height, width {shape}: "
            "expected 1 or 3 full planes"
        )
    if height * width > MAX_PIXELS:
        raise InputError(f"{where}: found {width}x{height} pixels, expected at most {MAX_PIXELS}")
    return shape


def open_file(file, where):
    """Open an image file's bytes as a PIL image whose pixels are not decoded yet.

    Raises InputError, beginning with `where`, for a file that is not an image, one larger than MAX_PIXELS, and one
    whose pixels have no known range: DEEP.
    """
    with _decoding(file, where):
        image = Image.open(io.BytesIO(file), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        tags = getattr(image, "tag_v2", {})
        if tags.get(TIFF_TILE[0], 0) * tags.get(TIFF_TILE[1], 0) > MAX_PIXELS:
            raise ValueError(f"tiles of more than {MAX_PIXELS} pixels")
        if image.mode in DEEP:
            raise ValueError(
                f"mode {image.mode}, {DEEP[image.mode]} whose range is not known: save it with 8 or 16 bits a channel"
            )
        return image


def decode_file(file, where):
    """Decode an image file's bytes to PIL RGB: alpha is dropped; an EXIF orientation is not applied (that of a TIFF
    is). Of 16 bits, and of 12, the upper 8 are taken.

    Raises InputError, beginning with `where`, for what `open_file` refuses, and for a file that is damaged or cut
    short.
    """
    return rgb(open_file(file, where), file, where)


def rgb(image, file, where):
    """The image of `open_file`, decoded to PIL RGB; see `decode_file`."""
    with _decoding(file, where):
        if image.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip
            tags = getattr(image, "tag_v2", {})
            pixels = (np.asarray(image) >> tags.get(TIFF_BITS, (16,))[0] - 8).astype(np.uint8)
            image = Image.fromarray(~pixels if tags.get(TIFF_PHOTOMETRIC) == 0 else pixels)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _decoding(file, where):
    """Whatever goes wrong in the block is the file's fault, and an InputError."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise InputError(f"{where}: found {len(file)} bytes that are not an image file") from None
    except Exception as error:  # each of Pillow's readers fails in its own ways
        raise InputError(f"{where}: the image does not decode: {str(error) or type(error).__name__}") from None
