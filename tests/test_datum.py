"""Records: raw and encoded, every kind of image file, and what is wrong with a record in one line."""

import logging
import struct
import warnings
import zlib

import numpy as np
import pytest
from commands import run
from images import image, image_file
from PIL import Image

from nptrain.caffe.caffe_pb2 import Datum
from nptrain.data.datum import decode, decode_file, encoded_datum, parse_datum, raw_datum, silence_pillow
from nptrain.errors import InputError


def pixels(record):
    """What a record decodes to, and its label."""
    datum = parse_datum(record, "here")
    found = decode(datum, "here")
    assert found.mode == "RGB"
    return np.asarray(found), datum.label


def test_raw():
    picture = image()
    record = raw_datum(picture, 7)
    datum = Datum.FromString(record)
    assert (datum.channels, datum.height, datum.width, datum.encoded) == (3, 16, 20, False)
    assert datum.data[: 16 * 20] == np.asarray(picture)[:, :, 2].tobytes(), "blue comes first"
    found, label = pixels(record)
    assert (found == np.asarray(picture)).all()
    assert label == 7

    grey = image(mode="L")
    found, _ = pixels(raw_datum(grey, 0))
    assert (found == np.asarray(grey)[:, :, None]).all()


def test_encoded():
    picture = image()
    found, label = pixels(encoded_datum(image_file(picture), 3))
    assert (found == np.asarray(picture)).all()
    assert label == 3


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
     ("1", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "TIFF"), ("RGB", "WEBP")],
)  # fmt: skip
def test_kinds_of_files(mode, kind):
    picture = image(mode=mode)
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    found = np.asarray(decode_file(image_file(picture, kind, **options), "here"), float)
    error = np.abs(found - np.asarray(picture.convert("RGB"), float))
    assert found.shape == (16, 20, 3)
    assert error.max() <= (16 if kind == "JPEG" else 0)


def test_grey_of_16_bits_is_scaled():
    deep = Image.fromarray(np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8))
    found = np.asarray(decode_file(image_file(deep), "here"))
    assert (found[:, :, 0] == np.arange(0, 256, 4).reshape(8, 8)).all()


def huge_png():
    """A few bytes that claim to be 60000x60000 pixels."""
    chunks = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")
    parts = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"no image", "here: found 8 bytes that are not an image file"),
        (b"", "here: found 0 bytes that are not an image file"),
        (image_file(image(1, 99, 99), "JPEG")[:-500], "here: the image does not decode: .*truncated"),
        (image_file(image(1, 99, 99))[:-500], "here: the image does not decode: .*truncated"),
        (huge_png(), "here: the image does not decode: .*pixels"),
        (image_file(image(), "EPS"), "here: found .* not an image file"),
    ],
)
def test_bad_files(file, message):
    with pytest.raises(InputError, match=message) as error:
        decode_file(file, "here")
    assert "\n" not in str(error.value)


def test_only_commands_silence_pillow(monkeypatch, tmp_path):
    file = image_file(image(mode="P"), "PNG", transparency=bytes(256))
    with pytest.warns(UserWarning, match="Transparency"):
        decode_file(file, "here")
    monkeypatch.setattr(logging.getLogger("PIL"), "level", logging.NOTSET)  # and back to what it is now
    with warnings.catch_warnings(record=True) as caught:
        silence_pillow()
        decode_file(file, "here")
    assert not caught
    (tmp_path / "images" / "class").mkdir(parents=True)
    (tmp_path / "images" / "class" / "odd.png").write_bytes(file)
    _, errors = run("make_lmdb", tmp_path / "images", tmp_path / "set")
    assert errors == ""


def test_an_image_of_too_many_pixels(monkeypatch):
    monkeypatch.setattr("nptrain.data.datum.MAX_PIXELS", 300)
    with pytest.raises(InputError, match=r"here: .*20x16 pixels, more than 300"):
        decode_file(image_file(image()), "here")
    with pytest.raises(InputError, match="here: found 20x16 pixels, expected at most 300"):
        decode(parse_datum(raw_datum(image(), 1), "here"), "here")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff\xff\xff", "here: found 3 bytes that are not a Datum"),
        (b"", "here: found 0 bytes that are not a Datum, or one without image data"),
        (Datum(data=b"x").SerializeToString(), "without label"),
        (Datum(label=1, float_data=[1, 2]).SerializeToString(), "here: found a Datum of floats"),
        (Datum(label=1, data=b"12345", channels=3, height=1, width=2).SerializeToString(), r"5 bytes .*\(3, 1, 2\)"),
        (
            Datum(label=1, data=b"1234", channels=2, height=1, width=2).SerializeToString(),
            "expected 1 or 3 full planes",
        ),
        (Datum(label=1, data=b"1", channels=1, height=-1, width=-1).SerializeToString(), "expected 1 or 3 full planes"),
    ],
)
def test_bad_records(record, message):
    with pytest.raises(InputError, match=message):
        decode(parse_datum(record, "here"), "here")
