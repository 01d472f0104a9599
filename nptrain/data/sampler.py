"""Which records a worker sees, and its random streams: pure functions of seed, iteration and worker.

Nothing about randomness is saved or restored: a resumed run, and one on other ranks, sees the same images.
"""

import functools

import numpy as np

_ORDER, _AUGMENTATION = 1, 2  # purposes: streams of different purposes share nothing
_WORD = (1 << 64) - 1


def record_indices(seed, iteration, worker, *, workers, batch_size, records, turn=0, iter_size=1, shuffle=True):
    """The records, int64 (batch_size,), of a worker in pass `turn` (below iter_size) of an iteration.

    All workers together walk through the records in an order that is new in every epoch, or the order of the
    file without `shuffle`; an epoch may end within a batch.
    """
    first = ((iteration * iter_size + turn) * workers + worker) * batch_size
    positions = np.arange(first, first + batch_size)
    if not shuffle:
        return positions % records
    epochs = positions // records
    return np.array([_permutation(seed, int(e), records)[p % records] for e, p in zip(epochs, positions, strict=True)])


def generator(seed, iteration, worker, turn, image):
    """The random stream that augments image number `image` of a worker's batch."""
    counter = [0, image << 32 | turn, worker, iteration]
    return np.random.Generator(np.random.Philox(key=[seed & _WORD, _AUGMENTATION], counter=counter))


@functools.lru_cache(maxsize=3)
def _permutation(seed, epoch, records):
    stream = np.random.Philox(key=[seed & _WORD, _ORDER], counter=[0, 0, 0, epoch])
    return np.random.Generator(stream).permutation(records)
