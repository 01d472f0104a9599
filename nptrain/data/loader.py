"""Batches, decoded ahead of the step in threads (Pillow decodes without the interpreter's lock)."""

import itertools
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nptrain.data.sampler import generator, record_indices
from nptrain.errors import InputError, ReadError

CHUNK = 4  # images of a task: to start a task takes as long as to decode a small image


@dataclass(frozen=True)
class Batch:
    """`images`: uint8 (N, 3, H, W), channels B, G, R; `labels`: int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class _Loader:
    """Iterates over batches. While one is waited for, `threads` threads also make the next `prefetch` ones.

    `plans` yields for each batch its records, (N,), and a function from a place in the batch to its Generator. Each
    thread calls `initializer` first, if not None. The batches do not depend on prefetch or threads. A context manager.
    The iteration raises an exception of a thread at the batch to which it belongs.
    """

    def __init__(self, dataset, transform, plans, prefetch, threads, initializer=None, max_bad_records=0):
        self.dataset, self.transform = dataset, transform
        self.bad_records = {}  # {index: error message} of those read so far; more may be added
        self._max_bad_records = min(max_bad_records, len(dataset) - 1)
        self._plans, self._prefetch = plans, prefetch
        self._queue = deque()
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode", initializer=initializer)
        self._waited = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Stop the threads: each finishes the few images it has begun, the rest is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def take_wait_s(self):
        """Seconds that the iteration has waited for images since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def __iter__(self):
        return self

    def __next__(self):
        for indices, rng_of in itertools.islice(self._plans, self._prefetch + 1 - len(self._queue)):
            self._queue.append(self._begin(indices, rng_of))
        if not self._queue:
            raise StopIteration
        batch, tasks = self._queue.popleft()
        began = time.perf_counter()
        for task in tasks:
            task.result()
        self._waited += time.perf_counter() - began
        return batch

    def _begin(self, indices, rng_of):
        count, size = len(indices), self.transform.crop_size
        batch = Batch(np.empty((count, 3, size, size), np.uint8), np.empty(count, np.int64))
        starts = range(0, count, CHUNK)
        return batch, [self._pool.submit(self._fill, batch, indices, rng_of, start) for start in starts]

    def _fill(self, batch, indices, rng_of, start):
        for place in range(start, min(start + CHUNK, len(indices))):
            batch.images[place], batch.labels[place] = self._image(int(indices[place]), rng_of, place)

    def _image(self, index, rng_of, place):
        """The transformed image and label of a record, or of the next good one, while bad ones are allowed."""
        while True:
            try:
                image, label = self.dataset[index]
                try:
                    return self.transform(image, rng_of(place)), label
                except InputError as error:
                    raise InputError(f"{self.dataset.where(index)}: {error}") from None
            except ReadError:
                raise
            except InputError as error:
                self.bad_records[index] = str(error)
                if len(self.bad_records) > self._max_bad_records:
                    if not self._max_bad_records:
                        raise
                    raise InputError(f"--max-bad-records: found {len(self.bad_records)}, expected at most "
                                     f"{self._max_bad_records}; the last: {error}") from None  # fmt: skip
                index = (index + 1) % len(self.dataset)


class TrainLoader(_Loader):
    """The batches of the logical workers `my_workers`, of all `workers`, from `start_iteration` on.

    Yields a Batch for each iteration before `stop_iteration` (None: without end), worker and pass (of `iter_size`), in
    this order. A batch is a pure function of `seed`, the phase's index, iteration, pass and worker. Up to
    `max_bad_records` bad records, which `bad_records` lists, are replaced by the next good ones; at one more the
    iteration raises InputError. One that cannot be read is not bad: ReadError is raised.
    """

    def __init__(
        self, dataset, transform, *, seed, phase=0, workers, batch_size, my_workers, start_iteration=0,
        stop_iteration=None, iter_size=1, shuffle=True, prefetch=2, threads=2, initializer=None, max_bad_records=0,
    ):  # fmt: skip
        def plans():
            endless = stop_iteration is None
            for iteration in itertools.count(start_iteration) if endless else range(start_iteration, stop_iteration):
                for worker, pass_ in itertools.product(my_workers, range(iter_size)):
                    indices = record_indices(
                        seed, iteration, worker, phase=phase, pass_=pass_, iter_size=iter_size,
                        workers=workers, batch_size=batch_size, records=len(dataset), shuffle=shuffle,
                    )  # fmt: skip
                    yield indices, lambda place, at=(iteration, worker, pass_): generator(seed, *at, place, phase)

        super().__init__(dataset, transform, plans(), prefetch, threads, initializer, max_bad_records)


class TestLoader(_Loader):
    """Records first..stop-1 in order, after the last one again from the first on; the last Batch may be short."""

    __test__ = False  # not a test class of pytest

    def __init__(self, dataset, transform, batch_size, first, stop, threads=2, prefetch=2, initializer=None):
        starts = range(first, stop, batch_size)
        spans = (np.arange(start, min(start + batch_size, stop)) % len(dataset) for start in starts)
        plans = ((span, lambda place: None) for span in spans)
        super().__init__(dataset, transform, plans, prefetch, threads, initializer)
