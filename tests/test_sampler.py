"""Which records: every one once an epoch, whoever asks; streams: all different, all repeatable."""

import itertools

import numpy as np
import pytest

from nptrain.data.sampler import AUGMENT, SHUFFLE, generator, permutation, record_indices, stream


def walk(iterations, *, iter_size=1, workers=3, batch_size=4, records=30, seed=5, shuffle=True):
    """All indices in the order of iteration, pass, worker."""
    return np.concatenate([
        record_indices(seed, i, w, pass_=p, iter_size=iter_size, workers=workers, batch_size=batch_size,
                       records=records, shuffle=shuffle)
        for i, p, w in itertools.product(range(iterations), range(iter_size), range(workers))
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("iter_size", "workers", "batch_size", "records"),
    [(1, 3, 4, 30), (2, 5, 3, 7), (1, 1, 16, 5), (3, 2, 8, 48), (1, 896, 16, 1000)],
)
def test_every_record_once_an_epoch(iter_size, workers, batch_size, records):
    step = iter_size * workers * batch_size
    iterations = -(-3 * records // step)
    indices = walk(iterations, iter_size=iter_size, workers=workers, batch_size=batch_size, records=records)
    assert indices.dtype == np.int64
    epochs = [indices[e * records : (e + 1) * records].tolist() for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(records))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_same_images_however_they_are_shared_out():
    """6 workers of 4, 3 of 8 or 1 of 24 go through the same order."""
    expected = walk(4, workers=6, batch_size=4)
    assert (walk(4, workers=3, batch_size=8) == expected).all()
    assert (walk(2, iter_size=2, workers=1, batch_size=24) == expected).all()
    assert (walk(4, workers=6, batch_size=4, seed=6) != expected).any()


def test_unshuffled_is_key_order():
    """As the original's data layer without shuffling: iteration i sees 8i..8i+7, modulo the records."""
    assert walk(12, workers=1, batch_size=8, records=48, shuffle=False).tolist() == list(range(48)) * 2


def test_the_recipes_own_numbers():
    """The last batch of 90 epochs of ImageNet: inside the data, and its epoch is complete but for a remainder."""
    indices = record_indices(0, 8039, 895, workers=896, batch_size=16, records=1_281_167)
    assert indices.shape == (16,)
    order = permutation(0, 89, 1_281_167)
    position = (8040 * 14_336 - 16) % 1_281_167
    assert (8040 * 14_336 - 16) // 1_281_167 == 89
    assert (indices == order[position : position + 16]).all()


def test_streams_differ_and_repeat():
    keys = list(itertools.product((0, 1), (0, 1, 2), (0, 1, 895), (0, 1), (0, 1, 15)))
    draws = {key: generator(*key).random(4).tobytes() for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert draws == {key: generator(*key).random(4).tobytes() for key in keys}
    assert stream(3, SHUFFLE, 4).random() != stream(3, AUGMENT, 4).random()
    seeds = (0, -1, 2**63, 2**64 - 2)
    assert len({stream(seed, SHUFFLE).random() for seed in seeds}) == 4, "any integer is a seed"


def test_a_phase_has_streams_and_orders_of_its_own():
    draws = {(purpose, phase): stream(3, purpose, 4, phase=phase).random(4).tobytes()
             for purpose in (SHUFFLE, AUGMENT) for phase in range(5)}  # fmt: skip
    assert len({*draws.values()}) == 10
    assert len({generator(3, 1, 2, 0, 5, phase=phase).random() for phase in range(5)}) == 5
    orders = [record_indices(3, 0, 0, phase=phase, workers=1, batch_size=30, records=30) for phase in range(3)]
    assert len({order.tobytes() for order in orders}) == 3
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_the_first_phase_has_the_streams_that_do_not_count_phases():
    """So that runs of before go on as they began."""
    for purpose, counter in ((SHUFFLE, [0, 4, 0, 0]), (AUGMENT, [0, 1, (2 << 32) + 7, 5])):
        plain = np.random.Generator(np.random.Philox(key=[3, purpose], counter=counter)).random(8)
        assert (stream(3, purpose, *counter[1:]).random(8) == plain).all()
        assert (stream(3, purpose, *counter[1:], phase=0).random(8) == plain).all()
    assert (generator(3, 1, 7, 2, 5).random(8) == plain).all()
    plain = np.random.Generator(np.random.Philox(key=[3, SHUFFLE], counter=[0, 2, 0, 0])).permutation(30)
    assert (permutation(3, 2, 30) == plain).all()


def test_a_stream_never_runs_into_the_next():
    """The counter's lowest word counts draws; neighbouring streams differ in higher words."""
    long = generator(0, 0, 0, 0, 0).random(100_000)
    for neighbour in (
        generator(0, 1, 0, 0, 0),
        generator(0, 0, 1, 0, 0),
        generator(0, 0, 0, 1, 0),
        generator(0, 0, 0, 0, 1),
    ):
        assert not np.isin(neighbour.random(4), long).any()
