"""Ranks that silently have other numbers than most are named, with the first layer that differs."""

import threading

import numpy as np
import pytest
from commands import call
from short_runs import SHORT, arguments

from kernels import fast, naive
from nptrain.errors import TrainingError
from nptrain.network.arena import Arena
from nptrain.network.layers import Architecture, layers
from nptrain.recipes.recipe import Phase
from nptrain.same_state import expect_same_state

PHASE = Phase("1", base_lr=0.1, max_iter=9, weight_decay=0.0)


class Threads:
    """A World whose ranks are threads."""

    def __init__(self, size):
        self.barrier, self.values = threading.Barrier(size, timeout=20), [None] * size

    def rank(self, rank):
        world = type("World", (), {"rank": rank, "host": f"node-{rank}"})()

        def allgather(value):
            self.barrier.wait()
            self.values[rank] = value
            self.barrier.wait()
            found = list(self.values)
            self.barrier.wait()
            return found

        world.allgather = allgather
        return world


def errors(arenas, iterations=None):
    """What each rank raises, or None."""
    threads, found = Threads(len(arenas)), [None] * len(arenas)

    def check(rank):
        try:
            expect_same_state(arenas[rank], PHASE, iterations[rank] if iterations else 4, threads.rank(rank))
        except TrainingError as error:
            found[rank] = str(error)

    running = [threading.Thread(target=check, args=(rank,)) for rank in range(len(arenas))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    return found


def arenas(ops, count=3):
    made = [Arena(layers(Architecture(18, width=16), 5), ops) for _ in range(count)]
    for arena in made:
        arena.initialise(1)
    return made


@pytest.mark.parametrize("ops", [fast, naive])
def test_the_first_difference_is_named(ops):
    same = arenas(ops)
    assert errors(same) == [None] * 3
    name = "phase 1, iteration 3: after the update rank 2 on node-2 differs from most others: "
    for array, place in (
        (same[2].of("res3a_branch1")[0].w, "weights of layer res3a_branch1, blob 32x16x1x1"),
        (same[2].norms["bn4a_branch2a"].var, "running statistics of layer bn4a_branch2a"),
        (same[2].history[same[2].of("fc1000")[1].part], "momentum of layer fc1000, blob 5"),
    ):
        flat = array.reshape(-1)
        before = flat[-1]
        flat[-1] = np.nextafter(before, np.float32(9))
        assert errors(same) == [name + place] * 3
        flat[-1] = before
    assert errors(same, [4, 4, 5])[0] == name + "the iteration"
    assert errors(same) == [None] * 3


@pytest.mark.parametrize(
    ("numbers", "who"),
    [
        ((1, 0, 0), "rank 0 on node-0 differs from most others"),  # rank 0 is not always right
        ((0, 0, 1, 0), "rank 2 on node-2 differs from most others"),
        ((0, 1), "rank 0 on node-0 and rank 1 on node-1 differ"),
        ((0, 0, 1, 1), "rank 0 on node-0 and rank 2 on node-2 differ"),
        ((0, 1, 2), "rank 0 on node-0 and rank 1 on node-1 differ"),
    ],
)
def test_most_ranks_are_right(numbers, who):
    same = arenas(naive, len(numbers))
    for arena, number in zip(same, numbers, strict=True):
        arena.weights[-1] = number
    line = f"phase 1, iteration 3: after the update {who}: weights of layer fc1000, blob 5"
    assert errors(same) == [line] * len(numbers)


def test_a_run_checks_as_often_as_it_is_told(data, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        "nptrain.train.expect_same_state", lambda _, phase, done, world: found.append((phase.name, done))
    )
    call("train", *arguments(data, tmp_path / "run", *SHORT, "--phase", 1, "--iterations", 7, "--check-every", 3))
    assert found == [("1", 3), ("1", 4), ("1", 6), ("1", 7)]  # 4: a checkpoint; 7: the last
