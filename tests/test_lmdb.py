"""Data sets: written and read back, by threads, twice at once; what is wrong with one in one line."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest
from images import image, image_file, make_dataset
from shared import shared

from nptrain.data.datum import encoded_datum, raw_datum
from nptrain.data.lmdb_dataset import LmdbDataset, LmdbWriter, write_lmdb
from nptrain.data.lmdb_file import leaves
from nptrain.errors import InputError
from nptrain.inspect.summary import summary


def test_round_trip(tmp_path):
    dataset = LmdbDataset(make_dataset(tmp_path / "set", 12), classes=5)
    assert len(dataset) == 12
    assert dataset.key(11) == b"00000011_11.png"
    for i in range(12):
        found, label = dataset[i]
        assert label == i % 5
        assert (np.asarray(found) == np.asarray(image(i))).all()
    for i in (12, -1):
        with pytest.raises(IndexError):
            dataset[i]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["data.mdb"]


def test_caffes_own():
    dataset = LmdbDataset(shared("formats/real/caffestart_train_lmdb"))
    assert len(dataset) == 12
    assert dataset.key(0) == b"00000000_c1.jpg"
    assert [image.size for image, _ in dataset] == [(256, 256)] * 12


def test_many_threads_and_two_datasets_on_one_lmdb(tmp_path):
    first = LmdbDataset(make_dataset(tmp_path / "set", 40))
    (tmp_path / "link").symlink_to("set")
    second = LmdbDataset(tmp_path / "link")
    expected = [np.asarray(image(i)).tobytes() for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for dataset in (first, second):
            found = pool.map(lambda i, dataset=dataset: dataset[i % 40][0].tobytes(), range(400))
            assert list(found) == expected * 10
    del first, dataset
    assert second[39][1] == 4
    del second
    assert len(LmdbDataset(tmp_path / "set")) == 40, "may be opened again"


def test_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(LmdbWriter, "BATCH_BYTES", 50_000)
    picture = image(1, 100, 100)
    with LmdbWriter(tmp_path / "set", map_size=1 << 16) as writer:
        for i in range(40):
            writer.add(f"{i}", raw_datum(picture, i))
    dataset = LmdbDataset(tmp_path / "set")
    assert [label for _, label in dataset] == list(range(40))
    assert dataset[39][0].tobytes() == picture.tobytes()


def test_long_names(tmp_path):
    record = encoded_datum(image_file(image()), 0)
    assert write_lmdb(tmp_path / "set", [("ü" * 400, record)] * 2) == 2
    assert len(LmdbDataset(tmp_path / "set")) == 2


def test_writer_leaves_nothing_half_written(tmp_path):
    def records():
        yield "a", encoded_datum(image_file(image()), 0)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_lmdb(tmp_path / "set", records())
    assert not list(tmp_path.iterdir())


def test_writer_overwrites_nothing(tmp_path):
    make_dataset(tmp_path / "set", 3)
    with pytest.raises(InputError, match="set: exists already"):
        make_dataset(tmp_path / "set", 4)
    assert len(LmdbDataset(tmp_path / "set")) == 3
    with pytest.raises(InputError, match=r"data.mdb/new: cannot be made"):
        write_lmdb(tmp_path / "set" / "data.mdb" / "new", [])


def test_no_lmdb(tmp_path):
    for name in ("none", ""):
        with pytest.raises(InputError, match=r"not an LMDB: .*data.mdb cannot be read: No such file"):
            LmdbDataset(tmp_path / name)
    for content in (b"", b"x" * 10_000):
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(InputError, match="not an LMDB: "):
            LmdbDataset(tmp_path)


def test_a_folder_of_data_sets(tmp_path):
    for name in ("val", "train"):
        make_dataset(tmp_path / name, 2)
    for read in (LmdbDataset, summary):
        with pytest.raises(
            InputError, match=f"^{tmp_path}: found a folder of data sets, expected one of them: train, v"
        ):
            read(tmp_path)


def test_no_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "set" / "data.mdb").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "data.mdb")
    for name, message in (
        ("file", "data.mdb has only 1 bytes"),
        ("set", "is not a file"),
        ("pipe", "is not a file"),
        ("a\0", "null"),
    ):
        with pytest.raises(InputError, match=f"{tmp_path}.*: not an LMDB: .*{message}"):
            LmdbDataset(tmp_path / name)


def test_an_lmdb_that_is_one_file(tmp_path):
    """As LMDB writes with MDB_NOSUBDIR; a data.mdb may be named, too."""
    file = make_dataset(tmp_path / "set", 3) / "data.mdb"
    assert [label for _, label in LmdbDataset(file)] == [0, 1, 2]
    file.rename(tmp_path / "train.mdb")
    dataset = LmdbDataset(tmp_path / "train.mdb", classes=2)
    assert len(dataset) == 3
    with pytest.raises(InputError, match=r"train.mdb: record 00000002_2.png: found label 2, expected 0..1"):
        dataset[2]


def test_names_that_are_not_utf_8(tmp_path):
    write_lmdb(tmp_path / "set", [(os.fsdecode(b"b\xe4r"), raw_datum(image(), 0))])
    dataset = LmdbDataset(tmp_path / "set")
    assert dataset.key(0) == b"00000000_b\xe4r"
    assert dataset.where(0).endswith("record 00000000_b\\xe4r")


def test_reading_writes_nothing(tmp_path):
    """No lock file: the folder may be of another user, or on a file system that cannot be written."""
    path = make_dataset(tmp_path / "set", 3)
    path.chmod(0o555)
    assert len(LmdbDataset(path)) == 3
    assert [file.name for file in path.iterdir()] == ["data.mdb"]


def test_the_format_is_caffes(tmp_path):
    """Of LMDB 0.9, whose files LMDB 1.0 still reads, but not the other way round."""
    data = (make_dataset(tmp_path / "set", 3) / "data.mdb").read_bytes()
    assert data[16:24] == bytes.fromhex("dec0efbe01000000")


@pytest.mark.parametrize("seed", range(3))
def test_every_record_is_where_lmdb_finds_it(tmp_path, seed):
    """Small and large records in trees of some levels, after many transactions and removals."""
    rng = random.Random(seed)
    with lmdb.open(str(tmp_path / "set"), map_size=1 << 28, lib_version=0) as environment:
        for _ in range(4):
            with environment.begin(write=True) as transaction:
                for _ in range(3000):
                    key = rng.randbytes(rng.choice((1, 8, 30, 200, 511)))
                    transaction.put(key, rng.randbytes(rng.choice((1, 100, 1500, 2040, 5000))))
            with environment.begin(write=True) as transaction:
                for key in list(transaction.cursor().iternext(values=False))[:: rng.choice((2, 3, 7))]:
                    transaction.delete(key)
        with environment.begin() as transaction:
            expected = list(transaction.cursor())
        assert environment.stat()["depth"] > 2
    with open(tmp_path / "set" / "data.mdb", "rb") as file:
        found = [
            (key, os.pread(file.fileno(), size, offset))
            for leaf in leaves(file)
            for key, offset, size in zip(*leaf, strict=True)
        ]
    assert found == expected


def test_cut_short(tmp_path):
    """Anywhere: also in the pages that tell how long it is."""
    data = make_dataset(tmp_path / "set", 20) / "data.mdb"
    whole = data.read_bytes()
    for size in (len(whole) - 1, len(whole) - 4096, 8192, 4096 + 151, 4096, 20, 1, 0):
        data.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"set: (cut short: found|not an LMDB:) .*"):
            LmdbDataset(tmp_path / "set")


def test_cut_short_while_it_is_read(tmp_path):
    """What would end a process that maps the file."""
    dataset = LmdbDataset(make_dataset(tmp_path / "set", 20))
    os.truncate(tmp_path / "set" / "data.mdb", 8192)
    with pytest.raises(InputError, match=r"set: record 00000019_19.png: cut short: found 0 bytes, expected \d+$"):
        dataset[19]


PAGE = 4096


@pytest.mark.parametrize(
    ("page", "offset", "value", "message"),
    [  # the fields that lmdb_file.py reads: a page of the tree is found by its flags
        (0, 16, b"\xde\xc0\xef\xbf", "not an LMDB: data.mdb has another header"),
        (1, 20, b"\3", "not an LMDB that Caffe reads: found format version 3, expected 1"),
        (0, 40, b"\0\0", "not an LMDB: pages of 0 bytes"),
        (0, 40, b"\xff\xff\xff\xff", "not an LMDB: pages of 4294967295 bytes"),
        (1, 92, b"\4", "found an LMDB with flags 0x4"),
        (1, 120, b"\xff", r"damaged: found \d+ records, expected \d+"),
        (1, 128, b"\xfe\xff", "damaged: a reference to page 65534"),
        (1, 128, b"\0", "damaged: a reference to page 0"),
        (1, 136, b"\xff\xff", "cut short"),
        ("branch", 10, b"\0", "is not a page of the tree"),
        ("branch", 12, b"\xff\xff", "is not a page of the tree"),
        ("branch", 16, b"\xfe\x0f", "has records outside it"),
        ("branch", 16, b"\1\0", "has records outside it"),
        ("leaf", 10, b"\x22", "is not a page of the tree"),
        ("leaf", 16, b"\4\0", "has records outside it"),
        ("leaf", "size", b"\xff\xff", "has records that end outside it"),
        ("leaf", "flags", b"\2", "has records of another kind than Caffe's"),
        ("leaf", "key size", b"\xff\x0f", "has records that end outside it"),
    ],
)
def test_damaged(tmp_path, page, offset, value, message):
    path = tmp_path / "set"
    write_lmdb(path, [(f"{k}", encoded_datum(bytes(100), 1)) for k in range(99)])
    data = bytearray((path / "data.mdb").read_bytes())
    if isinstance(page, str):
        flag = {"branch": 1, "leaf": 2}[page]
        page = next(p for p in range(2, len(data) // PAGE) if data[p * PAGE + 10] == flag)
    at = page * PAGE
    if isinstance(offset, str):
        offset = data[at + 16] + 256 * data[at + 17] + {"size": 0, "flags": 4, "key size": 6}[offset]
    data[at + offset : at + offset + len(value)] = value
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(InputError, match=f"^{path}: .*{message}"):
        LmdbDataset(path)


def test_a_large_record_outside_the_file(tmp_path):
    path = tmp_path / "set"
    write_lmdb(path, [("a", bytes(5000))])
    data = bytearray((path / "data.mdb").read_bytes())
    leaf = next(p for p in range(2, len(data) // PAGE) if data[p * PAGE + 10] == 2)
    node = leaf * PAGE + data[leaf * PAGE + 16] + 256 * data[leaf * PAGE + 17]
    for at, value in ((node + 2, b"\xff"), (node + 8 + len(b"00000000_a"), b"\xff\xff"),
                      (node + 8 + len(b"00000000_a"), b"\xff" * 8)):  # fmt: skip
        changed = data[:at] + value + data[at + len(value) :]
        (path / "data.mdb").write_bytes(changed)
        with pytest.raises(InputError, match="has records outside the file"):
            LmdbDataset(path)


def test_empty(tmp_path):
    write_lmdb(tmp_path / "set", [])
    with pytest.raises(InputError, match="set: found an LMDB without records"):
        LmdbDataset(tmp_path / "set")


def test_bad_records(tmp_path):
    good = image_file(image())
    write_lmdb(
        tmp_path / "set", [("a", b"\xff\xff"), ("b", encoded_datum(good[:-99], 0)), ("c", encoded_datum(good, 5))]
    )
    dataset = LmdbDataset(tmp_path / "set", classes=5)
    for index, message in (
        (0, "set: record 00000000_a: found 2 bytes that are not a Datum"),
        (1, "set: record 00000001_b: the image does not decode"),
        (2, "set: record 00000002_c: found label 5, expected 0..4"),
    ):
        with pytest.raises(InputError, match=message):
            dataset[index]
    assert LmdbDataset(tmp_path / "set")[2][1] == 5, "without classes, any label is right"


def test_a_record_larger_than_any_image(tmp_path, monkeypatch):
    monkeypatch.setattr("nptrain.data.lmdb_dataset.MAX_RECORD", 500)
    write_lmdb(tmp_path / "set", [("a", encoded_datum(image_file(image()), 0))])
    with pytest.raises(InputError, match=r"set: record 00000000_a: found \d+ bytes, expected at most 500"):
        LmdbDataset(tmp_path / "set").datum(0)


def test_foreign_keys(tmp_path):
    """Keys of any form, in LMDB's order."""
    with (
        lmdb.open(str(tmp_path / "set"), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for label, key in enumerate([b"zebra", b"\xff\x00", b"ant"]):
            transaction.put(key, encoded_datum(image_file(image()), label))
    dataset = LmdbDataset(tmp_path / "set")
    assert [label for _, label in dataset] == [2, 0, 1]
    assert dataset.where(2).endswith("record \\xff\x00")
