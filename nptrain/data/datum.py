"""Caffe's Datum: one labelled image, encoded or raw."""

import io

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from nptrain.caffe.caffe_pb2 import Datum
from nptrain.errors import InputError


def encoded_datum(data, label):
    """A Datum of an image file's bytes (JPEG, PNG), as convert_imageset --encoded writes it."""
    return Datum(data=data, label=label, encoded=True)


def raw_datum(image, label):
    """A Datum of an RGB image's pixels: channels x height x width, BGR."""
    pixels = bgr(image)
    channels, height, width = pixels.shape
    return Datum(channels=channels, height=height, width=width, data=pixels.tobytes(), label=label)


def parse_datum(data, where):
    """Bytes -> Datum with an image in it. Raises InputError, naming `where`, if they are anything else."""
    try:
        datum = Datum.FromString(bytes(data))
    except DecodeError:
        raise InputError(f"{where}: not a Datum") from None
    if datum.float_data:
        raise InputError(f"{where}: a Datum of floats, expected 8-bit pixels or an encoded image")
    if not datum.data or not datum.HasField("label"):
        raise InputError(f"{where}: a Datum without {'a label' if datum.data else 'data'}, or no Datum at all")
    return datum


def decode(datum, where):
    """The image of a Datum, RGB. Raises InputError, naming `where`, if it cannot be decoded."""
    return open_image(datum.data, where) if datum.encoded else _raw_image(datum, where)


def open_image(data, where):
    """The image in an image file's bytes, RGB, its orientation tag ignored as Caffe's training does."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: an image that does not decode ({str(error).splitlines()[0]})") from None


def _raw_image(datum, where):
    shape = (datum.channels, datum.height, datum.width)
    if min(shape) <= 0 or len(datum.data) != datum.channels * datum.height * datum.width:
        raise InputError(f"{where}: {len(datum.data)} bytes of pixels, which are no {shape} image")
    if datum.channels not in (1, 3):
        raise InputError(f"{where}: {datum.channels} channels, expected 1 or 3")
    pixels = np.frombuffer(datum.data, np.uint8).reshape(shape)
    if datum.channels == 1:
        pixels = pixels.repeat(3, axis=0)
    return Image.fromarray(np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))


def bgr(image):
    """An RGB image as uint8 (3, height, width) in the order blue, green, red."""
    return np.ascontiguousarray(np.asarray(image)[..., ::-1].transpose(2, 0, 1))
