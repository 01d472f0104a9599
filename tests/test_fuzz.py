"""Any bytes at all: one line of error, no crash, no hang, little memory. A little of what tests/fuzz.py does."""

import io
import os
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from wire import field, varint

from nptrain.caffe.model import read_caffemodel
from nptrain.caffe.state import read_solverstate
from nptrain.data.datum import MAX_PIXELS, encoded_datum
from nptrain.errors import InputError
from nptrain.inspect.summary import summary
from tests import fuzz

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # which commands silence
SMALL = [target for target in fuzz.TARGETS if target != "lmdb"]  # whose seeds are some hundred bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("target", fuzz.TARGETS)
@settings(max_examples=100, deadline=5000, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.binary(max_size=200))
def test_any_bytes(folder, target, data):
    fuzz.check(target, data, folder)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_mutated_files(target):
    assert fuzz.mutate(1, [target], seed=1) > 10


@pytest.mark.parametrize("target", SMALL)
def test_cut_anywhere(folder, target):
    for seed in fuzz.seeds(target, folder):
        for size in range(0, len(seed), 1 + len(seed) // 300):
            fuzz.check(target, seed[:size], folder)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_seeds_are_valid(folder, target):
    """Else mutations of them would find little."""
    for seed in fuzz.seeds(target, folder):
        if seed[:1] != b"{":
            (folder / "file").write_bytes(seed)
            fuzz.TARGETS[target](folder / "file")


CASES = [  # what was found, and mended
    ("prototxt", b'layers { name: "d" type: 4 blobs {' + b"\x7f" * 600),  # the line of error was as long as the line
    ("prototxt", b"base_lr: inf\nmomentum: nan\n"),  # no numbers of JSON
    ("prototxt", b"stepvalue: 1 " * 50_000),  # minutes of parsing for a long line
    ("prototxt", b"net_param {\n" * 5_000),  # as deep as the stack
    ("caffemodel", field(100, field(7, field(5, struct.pack("<f", float("nan")))))),
    ("inspect", b'{"recipe": {"\\u007f": 1}, "arguments": {}, "versions": {}, "hosts": []}'),
    ("inspect", field(100, field(1, b"\x1b[2J\xff") + field(7, field(8, struct.pack("<d", 1e300))))),
]


@pytest.mark.parametrize(("target", "data"), CASES)
def test_cases(folder, target, data):
    fuzz.check(target, data, folder)


@contextmanager
def little_memory(limit=200 << 20):
    """The block may take no more than `limit` bytes at any time."""

    def now(name):
        return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) << 10

    Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew
    before = now("VmRSS")
    yield
    assert now("VmHWM") - before < limit


MANY = 3_000_000


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_caffemodel, lambda: field(100, field(7, field(7, field(1, varint(2**40))) + field(5, bytes(8)))),
         r"layer , blob 0: found 2 numbers for a blob of shape \(1099511627776,\)"),
        (read_caffemodel, lambda: field(100, field(7, field(7, field(1, varint(2**40) + b"\0")))),
         r"blob of shape \(1099511627776, 0\), larger than Caffe allows"),
        (read_caffemodel, lambda: field(100, field(7, field(7, field(1, b"\1" * MANY)))), "more than 32 axes"),
        (read_caffemodel, lambda: field(100, field(7, field(5, bytes(7)))), r"found 7 bytes of float32 for a blob"),
        (read_caffemodel, lambda: b"\xa2\x06\x00" * MANY, r"more than \d+ fields"),
        (read_caffemodel, lambda: field(100, b"\x3a\x00" * MANY), r"more than \d+ fields"),
        (read_caffemodel, lambda: b"\x12\x00" * MANY, r"more than \d+ fields"),
        (read_solverstate, lambda: b"\x08\x01" + b"\x1a\x00" * MANY, r"more than \d+ fields"),
        (read_caffemodel, lambda: field(100, field(1, b"x" * MANY)), "a name of 3000000 bytes"),
        (read_caffemodel, lambda: b"\x0b" * MANY, "wire type 3 at byte 0"),
        (read_caffemodel, lambda: field(100, field(7, field(5, bytes(8))))[:-1], "claims 12 bytes .* 11 are left"),
        (read_solverstate, lambda: b"\x08" + varint(2**40), r"found iteration 1099511627776, expected 0\.\.2147483647"),
    ],
)  # fmt: skip
def test_hostile_files_cost_little(tmp_path, read, content, message):
    """What claims to be large, or is of millions of parts, gives a line before it takes memory."""
    path = tmp_path / "f"
    path.write_bytes(content())
    with little_memory(), pytest.raises(InputError, match=rf"^{path}: .*{message}"):
        read(path)


def test_what_cannot_be_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**31)  # holes
    for name, message in (
        ("pipe", "not a regular file"),
        ("", "not a regular file"),
        ("large", "expected at most 2147483647"),
        ("a\0b", "null"),
    ):
        with pytest.raises(InputError, match=message):
            read_caffemodel(f"{tmp_path}/{name}")
    for name in ("pipe", "a\0b"):
        with pytest.raises(InputError, match="cannot be read"):
            summary(f"{tmp_path}/{name}")


def tiled_tiff(side):
    """An image of 8x8 pixels whose only tile claims to be side x side."""
    data = zlib.compress(bytes(1000))
    tags = ((256, 8), (257, 8), (258, 8), (259, 8), (262, 2), (277, 3), (322, side), (323, side), (324, 134),
            (325, len(data)))  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_small_images_that_claim_to_be_large(tmp_path):
    path = tmp_path / "datum"
    path.write_bytes(encoded_datum(tiled_tiff(30_000), 1))
    with little_memory(), pytest.raises(InputError, match=f"tiles of more than {MAX_PIXELS} pixels"):
        fuzz.TARGETS["datum"](path)
    Image.new("1", (9000, 9000)).save(buffer := io.BytesIO(), "PNG")
    path.write_bytes(encoded_datum(buffer.getvalue(), 1))
    with little_memory(), pytest.raises(InputError, match=f"9000x9000 pixels, more than {MAX_PIXELS}"):
        fuzz.TARGETS["datum"](path)
