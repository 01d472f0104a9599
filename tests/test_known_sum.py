"""A sum over ranks whose result is known shows a wrong network or library before a run begins."""

import threading

import numpy as np
import pytest
from commands import call
from short_runs import arguments

from bin.commands import train
from bin.common.known_sum import expect_known_sum
from mpi.agree import AgreedError
from nptrain.world import ImmediateReducer, Solo


class Rank:
    """A rank that is a thread. `wrong` are names of methods whose result gets a wrong bit on rank 1."""

    library = "Some MPI 1.0"

    def __init__(self, rank, size, barrier, values, wrong):
        self.rank, self.size, self.host = rank, size, f"node-{rank}"
        self._barrier, self._values, self._wrong = barrier, values, wrong

    def reducer(self):
        return ImmediateReducer()

    def allgather(self, value):
        self._values[self.rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found

    def allreduce(self, array):
        array[:] = np.sum(self.allgather(array.copy()), axis=0)
        self._spoil(array, "allreduce")

    def allreduce_by(self, own, counts, function, out):
        assert counts == [1] * self.size
        out[:] = function([array for (array,) in self.allgather(own)])
        self._spoil(out, "allreduce_by")

    def _spoil(self, array, name):
        if name in self._wrong and self.rank == 1:
            array.view(np.uint8)[array.itemsize * 70 + array.itemsize - 2] ^= 4


def lines(size, wrong=(), nbytes=4000, itemsize=4):
    """What each rank says: None if the sums are right."""
    barrier, values, found = threading.Barrier(size, timeout=20), [None] * size, [None] * size

    def check(rank):
        try:
            expect_known_sum(Rank(rank, size, barrier, values, wrong), nbytes, itemsize)
        except AgreedError as error:
            found[rank] = error.line or "agreed"

    threads = [threading.Thread(target=check, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.mark.parametrize(("nbytes", "itemsize"), [(4000, 4), (4000, 8), (1, 4), (1 << 24, 4)])
def test_right_sums_are_right(nbytes, itemsize):
    assert lines(3, nbytes=nbytes, itemsize=itemsize) == [None] * 3


@pytest.mark.parametrize(("method", "way"), [("allreduce", "allreduce"), ("allreduce_by", "alltoall and allgather")])
def test_a_wrong_sum_names_its_rank_and_the_library(method, way):
    first, *others = lines(3, [method])
    assert first.startswith(f"rank 1 on node-1: a sum over 3 ranks is wrong ({way}): number 70 of 1000 is ")
    assert first.endswith(", expected 48: the network or the MPI library (Some MPI 1.0) is at fault")
    assert others == ["agreed"] * 2


def test_a_thousand_ranks_can_be_added_exactly_in_float32():
    most = 1000 * 60
    assert np.float32(most) - np.float32(1) == most - 1


def test_one_rank_sums_nothing(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "expect_known_sum", lambda world, *what: asked.append(what))
    call("train", *arguments(data, tmp_path / "run", "--phase", "1", "--kernels", "numpy", "--iterations", "1"))
    assert asked == [(1 << 20, 4)]  # --bucket-mib 1, two workers
    expect_known_sum(Solo(), 4000, 4)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError("Unable to allocate 34.0 MiB for an array"), "Unable to allocate 34.0 MiB for an array"),
        (RuntimeError("can't start new thread"), "can't start new thread: no room for its stack, or too many processes "
         "(ulimit -v, -u)"),
    ],
)  # fmt: skip
def test_without_memory_a_line_says_what_was_asked_and_what_a_rank_needs(data, tmp_path, monkeypatch, error, asked):
    def too_much(*_):
        raise error

    monkeypatch.setattr(train.ResNet, "of", too_much)
    _, errors = call("train", *arguments(data, tmp_path / "run", "--threads", "1"), status=1)
    assert errors.startswith(f"train: out of memory: {asked}; a rank needs 0.")
    assert " GB are left; " in errors
    assert errors.count("\n") == 1
