"""What is stored of each kind of image file: what the original Caffe decodes to three channels of 8 bits."""

import io
import struct
import zlib

import numpy as np
import pytest
from images import image, image_file
from PIL import Image

from nptrain.caffe.caffe_pb2 import Datum
from nptrain.data.augment import shorter_side
from nptrain.data.datum import decode, decode_file, parse_datum
from nptrain.data.storage import Storage
from nptrain.errors import InputError

EXACT = {"WEBP": {"lossless": True}}
DEEP = Image.fromarray(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16))
# (name, file, how it is stored: as it is, or as PNG or JPEG)
KINDS = [
    ("colour JPEG", image_file(image(), "JPEG"), "as it is"),
    ("JPEG without subsampling", image_file(image(), "JPEG", subsampling=0, progressive=True), "as it is"),
    ("JPEG of RGB", image_file(image(), "JPEG", keep_rgb=True), "as it is"),
    ("two pictures", image_file(image(), "MPO", save_all=True, append_images=[image(1)]), "as it is"),
    ("colour PNG", image_file(image()), "as it is"),
    ("grey JPEG", image_file(image(mode="L"), "JPEG"), "JPEG"),
    ("CMYK JPEG", image_file(image(mode="CMYK"), "JPEG"), "JPEG"),
    ("transparent colour", image_file(image(), transparency=(1, 2, 3)), "PNG"),
    *((f"PNG {mode}", image_file(image(mode=mode)), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")),
    ("16-bit PNG", image_file(DEEP), "PNG"),
    ("palette GIF", image_file(image(mode="P"), "GIF"), "PNG"),
    ("moving GIF", image_file(image(), "GIF", save_all=True, append_images=[image(1)]), "PNG"),
    ("BMP", image_file(image(), "BMP"), "PNG"),
    ("grey BMP", image_file(image(mode="L"), "BMP"), "PNG"),
    ("TIFF", image_file(image(), "TIFF"), "PNG"),
    ("16-bit TIFF", image_file(DEEP, "TIFF"), "PNG"),
    ("CMYK TIFF", image_file(image(mode="CMYK"), "TIFF"), "PNG"),
    ("TIFF of JPEG", image_file(image(), "TIFF", compression="jpeg"), "JPEG"),
    ("lossy WebP", image_file(image(), "WEBP"), "JPEG"),
    ("lossy WebP with alpha", image_file(image(mode="RGBA"), "WEBP"), "JPEG"),
    ("lossless WebP", image_file(image(), "WEBP", lossless=True), "PNG"),
    ("lossless WebP with metadata", image_file(image(), "WEBP", lossless=True, exif=Image.Exif().tobytes(),
                                               icc_profile=bytes(9001)), "PNG"),
    ("moving WebP", image_file(image(), "WEBP", lossless=True, save_all=True, append_images=[image(1)]), "PNG"),
]  # fmt: skip
each_kind = pytest.mark.parametrize(("file", "how"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])


def png_16_bits():
    """A PNG of three channels of 16 bits, which Pillow cannot write: all are 0x1234."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress((b"\0" + b"\x12\x34" * 3 * 8) * 8)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def stored(file, **options):
    """(the stored bytes, whether they were encoded anew)."""
    record, encoded = Storage(**options).record(file, "here", 3)
    datum = Datum.FromString(record)
    assert (datum.encoded, datum.label) == (not options.get("raw"), 3)
    return datum.data, encoded


def check_as_caffe(file):
    """Caffe's rule, whose decoder converts nothing: three channels of 8 bits, JPEG or PNG."""
    if file.startswith(b"\xff\xd8"):
        at = 2
        while file[at + 1] not in (0xC0, 0xC1, 0xC2):  # start of frame: baseline, extended, progressive
            at += 2 + int.from_bytes(file[at + 2 : at + 4])
        bits, channels = file[at + 4], file[at + 9]
    else:
        assert file.startswith(b"\x89PNG")
        bits, channels = file[24], {2: 3}.get(file[25])
        assert b"tRNS" not in file
    assert (bits, channels) == (8, 3)


@each_kind
def test_each_kind_of_file(file, how):
    found, encoded = stored(file)
    check_as_caffe(found)
    assert encoded == (found != file) == (how != "as it is")
    expected, decoded = decode_file(file, "here"), decode_file(found, "here")
    error = np.abs(np.asarray(expected, int) - np.asarray(decoded, int)).max()
    if how == "JPEG":
        assert found.startswith(b"\xff\xd8")
        assert error < 40
    else:
        assert error == 0
    for options in ({"keep": True}, {"keep": True, "orient": False}):
        assert stored(file, **options) == (file, False)


@each_kind
def test_opencv_agrees(file, how):
    """As Caffe calls it: no conversion to colour."""
    cv2 = pytest.importorskip("cv2")
    found, _ = stored(file)
    pixels = cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (pixels.dtype, pixels.shape[2]) == (np.uint8, 3)


def test_a_png_of_wrong_checksums():
    """Pillow decodes it, also where its end is missing."""
    good = image_file(image())
    for file in (good[:-13] + b"x" + good[-12:], good[:-12]):  # of the pixels; the last twelve bytes are a chunk's
        decode_file(file, "here")
        with pytest.raises(InputError, match="here: the image is damaged: "):
            stored(file)
        assert stored(file, keep=True) == (file, False)


def test_a_png_that_pillow_alone_reads():
    file = bytearray(image_file(image()))
    file[26] = 1  # the method of compression
    file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    found, encoded = stored(bytes(file))
    assert encoded
    assert decode_file(found, "here").tobytes() == image().tobytes()


def test_colour_png_of_16_bits():
    found, encoded = stored(png_16_bits())
    check_as_caffe(found)
    assert encoded
    assert (np.asarray(decode_file(found, "here")) == 0x12).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned(kind, orientation):
    """A picture whose four corners differ is turned back by each value of the tag; then the tag is gone."""
    upright = np.zeros((24, 32, 3), np.uint8)
    upright[:12, 16:], upright[12:, :16], upright[12:, 16:] = 80, 160, 240
    as_taken = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
                5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
                8: np.rot90(upright, -1)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    more = {"MPO": {"save_all": True, "append_images": [image(1)]}}.get(kind, EXACT.get(kind, {}))
    file = image_file(Image.fromarray(np.ascontiguousarray(as_taken)), kind, exif=exif, **more)
    found, encoded = stored(file)
    check_as_caffe(found)
    assert np.abs(np.asarray(decode_file(found, "here"), int) - upright).max() < 50
    assert Image.open(io.BytesIO(found)).getexif().get(274, 1) == 1
    plain = kind in ("JPEG", "PNG", "MPO")
    assert encoded == (orientation > 1 or not plain)
    if plain:
        assert stored(file, orient=False) == stored(file, keep=True) == (file, False)
        assert decode_file(file, "here").size == as_taken.shape[1::-1], "training does not turn what is stored"
    pixels, _ = stored(file, raw=True)
    assert np.abs(np.frombuffer(pixels, np.uint8).reshape(3, 24, 32).astype(int)[0] - upright[:, :, 0]).max() < 50


@pytest.mark.filterwarnings("ignore:::PIL")  # which commands silence
@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"\xff" * 99])
def test_metadata_that_cannot_be_read(exif):
    file = image_file(image(), "JPEG", exif=exif)
    assert stored(file) == (file, False)


def test_resize():
    big = image(1, 60, 48)
    found, encoded = stored(image_file(big), resize=24)
    expected = image_file(shorter_side(big, 24), "JPEG", quality=95)
    assert (found, encoded) == (expected, True)
    right = image_file(image(3, 24, 30))
    assert stored(right, resize=24) == (right, False), "stored as it was"
    grey, _ = stored(image_file(image(3, 24, 30, "L")), resize=24)
    check_as_caffe(grey)
    assert grey.startswith(b"\x89PNG"), "only encoded anew"
    assert stored(image_file(big), resize=24, keep=True)[0] == expected


def test_raw():
    for picture in (image(1, 60, 48), image(2, 24, 24, "L")):
        record, encoded = Storage(resize=24, raw=True).record(image_file(picture), "here", 1)
        found = decode(parse_datum(record, "here"), "here")
        assert found.tobytes() == shorter_side(picture.convert("RGB"), 24).tobytes(), "not through JPEG"
        assert not encoded


def test_metadata_is_not_copied():
    """A comment may be too long for a JPEG, and a profile may be one for other colours."""
    file = image_file(image(1, 60, 48), "GIF", comment=b"x" * 70_000)
    assert len(stored(file, resize=24)[0]) < 5000
    found, _ = stored(image_file(image(mode="CMYK"), "JPEG", icc_profile=b"of four inks"))
    assert b"of four inks" not in found


def test_a_strip_is_refused():
    """Resized it would have billions of pixels."""
    with pytest.raises(InputError, match="found an image of 1x30000 pixels, which would be 256x7680000 with a"):
        stored(image_file(Image.new("RGB", (1, 30000))), resize=256)
    with pytest.raises(InputError, match="expected at most 64000000 pixels"):
        shorter_side(Image.new("RGB", (1, 30000)), 256)
