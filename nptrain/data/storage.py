"""What is stored of an image file, so that the original Caffe reads it as it is meant."""

import io
from dataclasses import dataclass

from PIL import Image

from nptrain.data.augment import shorter_side
from nptrain.data.datum import encoded_datum, open_file, raw_datum, rgb
from nptrain.errors import InputError

JPEG_QUALITY = 95
EXIF_ORIENTATION = 274
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # fmt: skip
LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp"}  # Pillow's names of compressions


@dataclass(frozen=True)
class Storage:
    """How images are stored: the flags of bin/make_lmdb.

    resize  the shorter side in pixels; what is resized becomes a JPEG
    raw     uint8 planes, BGR
    keep    files as they are, also those that Caffe cannot read; only --resize changes them, and nothing is turned
    orient  turn photographs as their EXIF orientation says
    """

    resize: int | None = None
    raw: bool = False
    keep: bool = False
    orient: bool = True

    def check(self):
        """Raise InputError for values that make no sense."""
        if self.resize is not None and self.resize < 1:
            raise InputError(f"--resize: found {self.resize}, expected 1 or more")
        if self.raw and self.keep:
            raise InputError("--keep: found together with --raw, which stores pixels, not files")

    def record(self, file, where, label):
        """(record (bytes), whether the image was encoded anew) of an image file's bytes.

        Caffe decodes without converting, and wants three channels of 8 bits: a JPEG or PNG of that kind is stored as it
        is; another file as a PNG, or as a JPEG (quality 95) if it was compressed with loss. Raises InputError, which
        begins with `where`, for a file that does not decode.
        """
        opened = open_file(file, where)
        as_it_is = self.keep or is_plain(opened, file)
        lossless = is_lossless(opened, file)
        image = rgb(opened, file, where)  # in any case: what does not decode would stop the training
        if opened.format == "PNG" and not self.keep:
            expect_checksums(file, where)
        turn = None if self.keep or not self.orient else TURNS.get(_orientation(opened))
        if turn is not None:
            image, as_it_is = image.transpose(turn), False
        if self.resize and min(image.size) != self.resize:
            image, as_it_is, lossless = shorter_side(image, self.resize), False, False
        if self.raw:
            return raw_datum(image, label), False
        return encoded_datum(file if as_it_is else encoded(image, lossless), label), not as_it_is


def upright(opened, image):
    """A decoded image, turned as the EXIF orientation of its file says, which is `opened`."""
    turn = TURNS.get(_orientation(opened))
    return image if turn is None else image.transpose(turn)


def is_plain(image, file):
    """Whether Caffe decodes the file to three channels of 8 bits. `image` is its PIL image, not decoded yet."""
    if image.format == "PNG":
        # Of the header: bits, colour type, and two methods that Pillow does not check.
        return file[24:28] == b"\x08\x02\0\0" and "transparency" not in image.info
    return image.format in ("JPEG", "MPO") and image.mode == "RGB"  # MPO: a JPEG with further pictures behind it


def expect_checksums(file, where):
    """Raise InputError, beginning with `where`, for a PNG of wrong checksums: Pillow decodes it, but Caffe does not."""
    try:
        open_file(file, where).verify()
    except Exception as error:  # of damage of any kind
        raise InputError(f"{where}: the image is damaged: {error}") from None


def is_lossless(image, file):
    """Whether the file holds its pixels exactly, so that a PNG keeps them."""
    if image.format == "WEBP":
        return _webp_coding(file) == b"VP8L"
    return image.format not in ("JPEG", "MPO") and image.info.get("compression") not in LOSSY_TIFF


def encoded(image, lossless):
    """The bytes of a PIL RGB image as PNG or JPEG, without any metadata: what describes the old file may be wrong for
    the new one, or too long for it.
    """
    image.info, buffer = {}, io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _webp_coding(file):
    """The name of the chunk that has a WebP's pixels, or the first of its frames: VP8L is without loss."""
    at = 12
    while (kind := file[at : at + 4]) not in (b"VP8L", b"VP8 ", b""):
        size = int.from_bytes(file[at + 4 : at + 8], "little")
        at += 24 if kind == b"ANMF" else 8 + size + size % 2
    return kind


def _orientation(image):
    """The EXIF orientation of a decoded image, 1 to 8; 1 if Pillow turned it, or for metadata that cannot be read."""
    try:
        return 1 if image.format == "TIFF" else int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # each kind of damage raises its own
        return 1
