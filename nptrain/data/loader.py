"""Batches decoded and augmented ahead of the step, in threads (Pillow decodes without the interpreter's lock)."""

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nptrain.data.sampler import generator, record_indices
from nptrain.errors import InputError

CHUNK = 8  # images a task


@dataclass(frozen=True)
class Batch:
    """images uint8 (N, 3, H, W), BGR; labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class _Loader:
    """Batches in the order of a plan, `prefetch` of them in the making. An error in a thread is raised by next().

    plan: an iterable of batches, each a list of (record, function that makes its random stream).
    """

    def __init__(self, dataset, transform, plan, prefetch, threads):
        self.dataset, self.transform, self.plan, self.prefetch = dataset, transform, iter(plan), prefetch
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.pending = deque()
        self.waited = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        while len(self.pending) <= self.prefetch:
            entries = next(self.plan, None)
            if entries is None:
                break
            chunks = [entries[at : at + CHUNK] for at in range(0, len(entries), CHUNK)]
            self.pending.append([self.pool.submit(self._load, chunk) for chunk in chunks])
        if not self.pending:
            raise StopIteration
        loaded = [image for chunk in self.pending.popleft() for image in chunk.result()]
        images, labels = zip(*loaded, strict=True)
        batch = Batch(np.stack(images), np.array(labels, np.int64))
        self.waited += time.perf_counter() - start
        return batch

    def _load(self, entries):
        return [self._image(index, stream) for index, stream in entries]

    def _image(self, index, stream):
        image, label = self.dataset[index]
        try:
            return self.transform(image, stream()), label
        except ValueError as error:
            raise InputError(f"{self.dataset.where(index)}: {error}") from None

    def take_wait_s(self):
        """Seconds that next() made its caller wait since the last call."""
        waited, self.waited = self.waited, 0.0
        return waited

    def close(self):
        """Drop what is in the making."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TrainLoader(_Loader):
    """A batch for every iteration from start_iteration below stop_iteration, pass and worker of `my_workers`."""

    def __init__(self, dataset, transform, *, seed, workers, batch_size, my_workers, start_iteration, stop_iteration,
                 iter_size=1, shuffle=True, prefetch=2, threads=1):  # fmt: skip
        def plan():
            for iteration in range(start_iteration, stop_iteration):
                for turn in range(iter_size):
                    for worker in my_workers:
                        indices = record_indices(
                            seed, iteration, worker, workers=workers, batch_size=batch_size,
                            records=len(dataset), turn=turn, iter_size=iter_size, shuffle=shuffle)  # fmt: skip
                        key = (seed, iteration, worker, turn)
                        yield [(int(i), lambda key=key, j=j: generator(*key, j)) for j, i in enumerate(indices)]

        super().__init__(dataset, transform, plan(), prefetch, threads)


class TestLoader(_Loader):
    """Records first .. stop - 1, once each, in order; the last batch may be shorter."""

    __test__ = False  # not a test, whatever its name says

    def __init__(self, dataset, transform, batch_size, first, stop, threads=1, prefetch=2):
        plan = ([(index, _no_stream) for index in range(at, min(at + batch_size, stop))]
                for at in range(first, stop, batch_size))  # fmt: skip
        super().__init__(dataset, transform, plan, prefetch, threads)


def _no_stream():
    return None
