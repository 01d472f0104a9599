"""Data sets: written and read back, by threads, twice at once; what is wrong with one in one line."""

from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest

from nptrain.data.datum import encoded_datum, raw_datum
from nptrain.data.lmdb_dataset import LmdbDataset, LmdbWriter, write_lmdb
from nptrain.errors import InputError
from tests.images import image, image_file, make_dataset
from tests.shared import shared


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
        with pytest.raises(InputError, match=r"no LMDB: .*data.mdb cannot be read: No such file"):
            LmdbDataset(tmp_path / name)
    for content in (b"", b"x" * 10_000):
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(InputError, match="no LMDB: "):
            LmdbDataset(tmp_path)


def test_cut_short(tmp_path):
    data = make_dataset(tmp_path / "set", 20) / "data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])
    with pytest.raises(InputError, match=r"set: cut short: found .* bytes in data.mdb, expected "):
        LmdbDataset(tmp_path / "set")


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
        (0, "set: record 00000000_a: found 2 bytes that are no Datum"),
        (1, "set: record 00000001_b: the image does not decode"),
        (2, "set: record 00000002_c: found label 5, expected 0..4"),
    ):
        with pytest.raises(InputError, match=message):
            dataset[index]
    assert LmdbDataset(tmp_path / "set")[2][1] == 5, "without classes, any label is right"


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
