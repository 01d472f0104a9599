"""Records: raw and encoded, every kind of image file, and what is wrong with a record in one line."""

import io
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
from nptrain.data.datum import decode, decode_file, encoded_datum, header, parse_datum, raw_datum, silence_pillow
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


def tiff(pixels, mode, photometric=1, bits=None):
    """A TIFF of an array, whose tags say another mode, 0 for white, or another number of bits."""
    file = bytearray(image_file(Image.fromarray(pixels), "TIFF"))
    for tag, value in ((262, photometric), (258, bits)):
        place = file.index(struct.pack("<HHI", tag, 3, 1))
        file[place + 8 : place + 10] = struct.pack("<H", value) if value is not None else file[place + 8 : place + 10]
    assert Image.open(io.BytesIO(file)).mode == mode
    return bytes(file)


def test_deep_grey_of_tiffs():
    """Of 12 bits the upper 8 are taken, and where 0 is white it stays white."""
    deep = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    found = np.asarray(decode_file(tiff(deep, "I;16", photometric=0), "here"))
    assert (found[:, :, 0] == 255 - (deep >> 8)).all()
    values = [0x000, 0xFFF, 0x800, 0x123]
    packed = bytes.fromhex("000fff800123") + bytes(10)  # two bytes a pixel in the file, of which a row needs six
    file = bytearray(tiff(np.zeros((1, 4), np.uint16), "I;16", bits=12))
    with Image.open(io.BytesIO(bytes(file))) as opened:
        place = opened.tag_v2[273][0]
    file[place : place + 8] = packed[:8]
    found = np.asarray(decode_file(bytes(file), "here"))
    assert found[0, :, 0].tolist() == [value >> 4 for value in values]


@pytest.mark.parametrize(
    ("pixels", "mode"), [(np.int32([[0, 70000]]), "I"), (np.float32([[0, 1]]), "F"), (np.float32([[0, 255]]), "F")]
)
def test_pixels_of_no_known_range_are_refused(pixels, mode):
    """Pillow would clip them: black or white images."""
    file = image_file(Image.fromarray(pixels), "TIFF")
    with pytest.raises(InputError, match=f"here: the image does not decode: mode {mode}, .* range is not known: save"):
        decode_file(file, "here")
    with pytest.raises(InputError, match=f"here: .*mode {mode}"):
        header(Datum(data=file, encoded=True, label=1), "here")


def test_header():
    """What is seen without decoding: shape, channels, coding, and what is refused."""
    for datum, expected in (
        (encoded_datum(image_file(image(mode="L")), 1), ((20, 16), 1, "PNG")),
        (encoded_datum(image_file(image())[:-99], 1), ((20, 16), 3, "PNG")),
        (raw_datum(image(), 1), ((20, 16), 3, "raw")),
    ):
        assert header(parse_datum(datum, "here"), "here") == expected
    for datum, message in (
        (Datum(label=1, data=bytes(256), channels=4, height=8, width=8), "expected 1 or 3 full planes"),
        (Datum(label=1, data=bytes(192), channels=8, height=8, width=3), "expected 1 or 3 full planes"),
        (Datum(label=1, data=b"no image", encoded=True), "not an image file"),
        (Datum(label=1, data=huge_png(), encoded=True), "pixels"),
    ):
        with pytest.raises(InputError, match=f"here: .*{message}"):
            header(datum, "here")


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
