"""Which records a worker sees, and the random streams of augmentation: pure functions, without state to save.

Streams are Philox4x64 keyed by the seed, and by purpose and phase, so no two of these share numbers; the upper three of
its four counter words say which stream, the lowest counts the draws.
"""

from functools import lru_cache

import numpy as np

SHUFFLE, AUGMENT, CONVERT = 1, 2, 3  # purposes
_WORD = 2**64


def stream(seed, purpose, a=0, b=0, c=0, phase=0):
    """The np.random.Generator of an integer `seed`, a purpose, three numbers in 0..2**64-1 and a phase's index."""
    key, counter = np.array([seed % _WORD, (phase << 32) + purpose], np.uint64), np.array([0, a, b, c], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def generator(seed, iteration, worker, pass_, image, phase=0):
    """The stream that augments the `image`-th image of a worker's batch."""
    return stream(seed, AUGMENT, iteration, (pass_ << 32) + worker, image, phase)


def record_indices(seed, iteration, worker, *, phase=0, pass_=0, iter_size=1, workers, batch_size, records,
                   shuffle=True):  # fmt: skip
    """Records of a worker's batch in one pass of one iteration: int64 (batch_size,), each in 0..records-1.

    The batches of all iterations, passes and workers, one after the other, go through the records epoch
    by epoch: every record once an epoch, in the order of the epoch's own permutation, or in key order if
    not `shuffle`. An epoch may end inside a batch.
    """
    first = ((iteration * iter_size + pass_) * workers + worker) * batch_size
    epochs, places = np.divmod(np.arange(first, first + batch_size, dtype=np.int64), records)
    if not shuffle:
        return places
    indices = np.empty(batch_size, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        in_epoch = epochs == epoch
        indices[in_epoch] = permutation(seed, epoch, records, phase)[places[in_epoch]]
    return indices


@lru_cache(maxsize=4)
def permutation(seed, epoch, records, phase=0):
    """The order of the records in an epoch of a phase: int64 (records,), read-only."""
    order = stream(seed, SHUFFLE, epoch, phase=phase).permutation(records)
    order.setflags(write=False)
    return order
