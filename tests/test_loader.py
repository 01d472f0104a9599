"""Batches: the same for any number of threads, any start and any share of the workers; errors come through."""

import threading
import time

import numpy as np
import pytest

from nptrain.data.augment import Transform
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.data.loader import TestLoader, TrainLoader
from nptrain.data.sampler import generator, record_indices
from nptrain.errors import InputError
from tests.images import image, image_file, make_dataset

TRANSFORM = Transform("random_aspect_ratio", 12)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return LmdbDataset(make_dataset(tmp_path_factory.mktemp("data") / "set", 23), classes=5)


def batches(dataset, start=0, stop=4, my_workers=range(3), **options):
    options = {"seed": 3, "workers": 3, "batch_size": 5, "iter_size": 2, "threads": 2} | options
    with TrainLoader(
        dataset, TRANSFORM, my_workers=my_workers, start_iteration=start, stop_iteration=stop, **options
    ) as loader:
        return [(batch.images.tobytes(), batch.labels.tolist()) for batch in loader]


def test_batches_are_what_sampler_and_transform_say(dataset):
    with TrainLoader(dataset, TRANSFORM, seed=3, workers=3, batch_size=5, my_workers=[1, 2], iter_size=2) as loader:
        for i, w, p in [(i, w, p) for i in range(3) for w in (1, 2) for p in range(2)]:
            batch = next(loader)
            assert (batch.images.shape, batch.images.dtype) == ((5, 3, 12, 12), np.uint8)
            assert batch.labels.dtype == np.int64
            indices = record_indices(3, i, w, pass_=p, iter_size=2, workers=3, batch_size=5, records=23)
            assert batch.labels.tolist() == [index % 5 for index in indices]
            for j, index in enumerate(indices):
                assert (batch.images[j] == TRANSFORM(dataset[int(index)][0], generator(3, i, w, p, j))).all()


def test_threads_and_prefetch_change_nothing(dataset):
    expected = batches(dataset, threads=1, prefetch=0)
    assert len(expected) == 4 * 2 * 3
    assert batches(dataset, threads=3) == expected
    assert batches(dataset, threads=3, prefetch=9) == expected
    assert batches(dataset, seed=4) != expected
    assert batches(dataset, shuffle=False) != expected


def test_resuming_and_sharing_out_change_nothing(dataset):
    expected = batches(dataset)
    assert batches(dataset, start=2) == expected[2 * 6 :]
    shares = [batches(dataset, my_workers=share) for share in ([0, 1], [2])]
    four, two = ([share[n * i : n * (i + 1)] for i in range(4)] for n, share in zip((4, 2), shares, strict=True))
    assert [batch for i in range(4) for batch in (*four[i], *two[i])] == expected


def test_every_test_record_once(dataset):
    transform = Transform("test", 10)
    for first, stop in ((0, 23), (7, 20), (22, 23), (5, 5)):
        with TestLoader(dataset, transform, 6, first, stop, threads=2) as loader:
            found = list(loader)
        sizes = [len(batch.labels) for batch in found]
        assert sizes == [6] * ((stop - first) // 6) + [(stop - first) % 6] * bool((stop - first) % 6)
        labels = [label for batch in found for label in batch.labels]
        assert labels == [i % 5 for i in range(first, stop)]
        pixels = [planes for batch in found for planes in batch.images]
        assert all((planes == transform(dataset[first + k][0])).all() for k, planes in enumerate(pixels))


class Slow:
    """Records that take 20 ms, and count how many were made."""

    def __init__(self, fail_at=None):
        self.made, self.fail_at = 0, fail_at

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep(0.02)
        self.made += 1
        if index == self.fail_at:
            raise ZeroDivisionError("broken")
        return image(width=12, height=12), index


def slow_loader(dataset, **options):
    return TrainLoader(
        dataset, TRANSFORM, seed=0, workers=1, batch_size=8, my_workers=[0], shuffle=False, threads=2, **options
    )


def test_decoding_runs_ahead_and_closing_stops_it():
    dataset = Slow()
    threads = threading.active_count()
    with slow_loader(dataset, prefetch=3) as loader:
        next(loader)
        assert loader.take_wait_s() > 0.05
        deadline = time.perf_counter() + 5
        while dataset.made < 32 and time.perf_counter() < deadline:
            time.sleep(0.01)
        assert dataset.made == 32, "the batch taken and three ahead, no more"
        assert loader.take_wait_s() == 0
        next(loader)
        assert loader.take_wait_s() < 0.02
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    made = dataset.made
    assert made < 48
    assert threading.active_count() == threads
    time.sleep(0.1)
    assert dataset.made == made


def test_an_exception_comes_through_at_its_batch():
    with slow_loader(Slow(fail_at=17), prefetch=3) as loader:
        assert next(loader).labels[0] == 0
        assert next(loader).labels[0] == 8
        with pytest.raises(ZeroDivisionError, match="broken"):
            next(loader)


@pytest.fixture
def flawed(tmp_path):
    """Ten records, of which 3, 4 and 9 are bad in three ways."""
    records = [(f"{i}", encoded_datum(image_file(image(i)), i)) for i in range(10)]
    records[3] = ("3", b"\xff")
    records[4] = ("4", encoded_datum(b"no image", 4))
    records[9] = ("9", encoded_datum(image_file(image(9, 5, 5)), 9))
    write_lmdb(tmp_path / "set", records)
    return LmdbDataset(tmp_path / "set")


def labels(dataset, **options):
    with TrainLoader(
        dataset, Transform("random_crop", 8), seed=0, workers=1, batch_size=10, my_workers=[0], shuffle=False,
        stop_iteration=2, **options,
    ) as loader:  # fmt: skip
        return [batch.labels.tolist() for batch in loader], loader.bad_records


def test_bad_records_stop_the_run(flawed):
    with pytest.raises(InputError, match=r"set: record 0000000[34]_[34]: found "):
        labels(flawed)
    with pytest.raises(InputError):
        labels(flawed, max_bad_records=2)
    with (
        TestLoader(flawed, Transform("test", 8), 1, 9, 10) as loader,
        pytest.raises(InputError, match="set: record 00000009_9: found an image of 5x5 pixels, smaller than the crop"),
    ):
        next(loader)


def test_bad_records_are_replaced_up_to_the_limit(flawed):
    for threads in (1, 3):
        found, bad = labels(flawed, max_bad_records=3, threads=threads)
        assert found == [[0, 1, 2, 5, 5, 5, 6, 7, 8, 0]] * 2
        assert sorted(bad) == [3, 4, 9]
        assert "record 00000004_4: found 8 bytes that are not an image file" in bad[4]


def test_nothing_but_bad_records(tmp_path):
    write_lmdb(tmp_path / "set", [(f"{i}", b"\xff") for i in range(3)])
    with pytest.raises(InputError, match="not a Datum"):
        labels(LmdbDataset(tmp_path / "set"), max_bad_records=1000)
