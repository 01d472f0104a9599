"""Batches: the same for any number of threads, any start and any share of the workers; errors come through."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from images import image, image_file, make_dataset

from nptrain import files
from nptrain.data import loader as loading
from nptrain.data.augment import Transform
from nptrain.data.bad_records import BadRecords
from nptrain.data.datum import encoded_datum
from nptrain.data.lmdb_dataset import LmdbDataset, write_lmdb
from nptrain.data.loader import TestLoader, TrainLoader
from nptrain.data.sampler import generator, record_indices
from nptrain.errors import InputError, ReadError

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


def test_each_phase_has_batches_of_its_own(dataset):
    found = [batches(dataset, phase=phase) for phase in (0, 1, 2)]
    assert found[0] == batches(dataset)
    assert len({batch for each in found for batch in map(str, each)}) == sum(map(len, found))
    unshuffled = [batches(dataset, phase=phase, shuffle=False) for phase in (0, 1)]
    assert [labels for _, labels in unshuffled[0]] == [labels for _, labels in unshuffled[1]]
    assert unshuffled[0] != unshuffled[1]  # augmented in another way


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


class Records:
    """Records that count how many were made; those from `held` on wait until `gate` is set."""

    def __init__(self, held=1000, fail_at=None):
        self.held, self.fail_at = held, fail_at
        self.made, self.waiting = 0, 0
        self.gate, self.changed = threading.Event(), threading.Condition()

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index == self.fail_at:
            raise ZeroDivisionError("broken")
        if index >= self.held:
            self._count("waiting")
            assert self.gate.wait(10)
        self._count("made")
        return image(width=12, height=12), index

    def _count(self, name):
        with self.changed:
            setattr(self, name, getattr(self, name) + 1)
            self.changed.notify_all()

    def wait_until(self, name, count):
        """Wait until so many were made, or are waiting."""
        with self.changed:
            assert self.changed.wait_for(lambda: getattr(self, name) == count, 10)


def loader_of(dataset, **options):
    return TrainLoader(
        dataset, TRANSFORM, seed=0, workers=1, batch_size=8, my_workers=[0], shuffle=False, threads=2, **options
    )


def test_decoding_runs_ahead(monkeypatch):
    dataset, begun = Records(held=32), []
    monkeypatch.setattr(loading, "record_indices", lambda *at, **of: begun.append(at) or record_indices(*at, **of))
    with loader_of(dataset, prefetch=3) as loader:
        next(loader)
        assert len(begun) == 4, "the batch taken and three ahead, no more"
        dataset.wait_until("made", 32)
        next(loader)  # which is there, though the fifth batch, which it begins, is not
        dataset.wait_until("waiting", 2)
        assert (len(begun), dataset.made) == (5, 32)
        dataset.gate.set()


def test_closing_drops_what_has_not_begun(monkeypatch):
    dataset, tasks, threads = Records(held=8), [], threading.active_count()

    class Pool(ThreadPoolExecutor):
        def submit(self, *work):
            tasks.append(super().submit(*work))
            return tasks[-1]

    monkeypatch.setattr(loading, "ThreadPoolExecutor", Pool)
    with loader_of(dataset, prefetch=3) as loader:
        next(loader)
        dataset.wait_until("waiting", 2)  # at the first image of either half of the second batch
        tasks[-1].add_done_callback(lambda task: dataset.gate.set())  # it is dropped, and those before it
    assert dataset.made == 16
    assert [task.cancelled() for task in tasks] == [False] * 4 + [True] * 4
    assert threading.active_count() == threads


def test_the_seconds_that_images_were_waited_for(monkeypatch):
    dataset, clock, read = Records(held=0), SimpleNamespace(now=1.0), threading.Event()

    def perf_counter():
        now = clock.now
        read.set()
        return now

    monkeypatch.setattr(loading, "time", SimpleNamespace(perf_counter=perf_counter))
    with loader_of(dataset, prefetch=3) as loader:
        taker = threading.Thread(target=next, args=[loader])
        taker.start()
        assert read.wait(10)  # it begins to wait
        clock.now = 3.5
        dataset.gate.set()
        taker.join(10)
        assert loader.take_wait_s() == 2.5
        assert loader.take_wait_s() == 0


def test_an_exception_comes_through_at_its_batch():
    with loader_of(Records(fail_at=17), prefetch=3) as loader:
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
    with pytest.raises(InputError, match=r"^--max-bad-records: found 3, expected at most 2; the last: .*set: record "):
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


def test_a_record_that_cannot_be_read_is_not_a_bad_one(tmp_path, monkeypatch):
    """Others would take its place, and the run would end with other bits."""
    dataset = LmdbDataset(make_dataset(tmp_path / "set", 10))
    path = tmp_path / "set" / "data.mdb"
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    for options in ({}, {"max_bad_records": 9}):
        with pytest.raises(ReadError, match=r"set: record 0000000\d_\d.*: cut short: found \d+ bytes, expected \d+$"):
            labels(dataset, **options)
    with pytest.raises(ReadError):
        dataset.largest_label()
    path.write_bytes(whole)
    monkeypatch.setattr(files, "PAUSES", ())
    monkeypatch.setattr(files.os, "pread", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(ReadError, match=r"cannot be read: Input/output error$"):
        labels(dataset, max_bad_records=9)


class Ranks:
    """A World of two ranks, of which the other one has sent `other`."""

    def __init__(self, rank, other):
        self.rank, self.allgather = rank, lambda mine: [mine, other][:: 1 - 2 * rank]


def test_ranks_name_bad_records_once_and_count_them_together():
    ours, said = BadRecords(), []
    ours |= {4: "four", 7: "seven"}
    assert ours.unnamed == 2
    ours.name(Ranks(0, {4: "four", 1: "one"}), 3, said.append)
    assert said == [f"replaced a bad record: {name}" for name in ("one", "four", "seven")]
    assert (ours.unnamed, dict(ours)) == (0, {1: "one", 4: "four", 7: "seven"})
    ours[9] = "nine"
    ours.name(Ranks(1, {}), 3, said.append)  # rank 0 ends them
    assert said[3:] == ["replaced a bad record: nine"]
    line = r"^--max-bad-records: found 5 on all ranks, expected at most 3; the last: two$"
    with pytest.raises(InputError, match=line):
        ours.name(Ranks(0, {2: "two"}), 3, said.append)


def test_nothing_but_bad_records(tmp_path):
    write_lmdb(tmp_path / "set", [(f"{i}", b"\xff") for i in range(3)])
    with pytest.raises(InputError, match="not a Datum"):
        labels(LmdbDataset(tmp_path / "set"), max_bad_records=1000)
