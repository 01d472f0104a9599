"""The ranks, as the trainer sees them: the interface that `mpi.world.World` has, and one process without MPI."""

import socket
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np


class Reducer(Protocol):
    """Starts sums over ranks, one after another, which then travel while others compute. A context manager."""

    def start(self, action, *args) -> Future:
        """Begin action(*args). `result()` of what it returns waits, and raises what the action raised."""


class World(Protocol):
    """Ranks 0 .. size - 1, this one being `rank` on the machine `host`. All ranks call a method together."""

    rank: int
    size: int
    host: str

    def bcast_array(self, array: np.ndarray):
        """Rank 0's values for everybody, in place. `array` is contiguous."""

    def bcast(self, value: Any) -> Any:
        """Rank 0's value, a small object."""

    def allgather(self, value: Any) -> list:
        """Every rank's value, a small object, in order of rank."""

    def allreduce(self, array: np.ndarray):
        """The sum over ranks of a flat array, in place."""

    def allreduce_scalars(self, values) -> list[float]:
        """The sums over ranks of a few floats, in float64, the same on all."""

    def allreduce_by(self, own, counts, function, out):
        """out = function(arrays), the arrays of all ranks in order of rank: `counts` says how many each has, `mine` are
        this rank's, all flat and of out's size. Ranks share the elements among them.
        """

    def reducer(self, threads=1, initializers=()) -> Reducer:
        """Sums on so many threads, each of which calls the `initializers` first."""

    def barrier(self):
        """Wait for all ranks."""

    def one_per_host_first(self, action):
        """Do something on one rank of each host, then on its others."""

    def end_together(self, status: int):
        """End the process with `status` after an error that all ranks raise."""

    def end_all(self, status: int):
        """End all ranks with `status` after an error that others may not have."""


class Solo:
    """A world of one rank: nothing to send, nobody to wait for."""

    rank, size, local_rank, local_size = 0, 1, 0, 1
    library, thread_level = "none", "multiple"

    def __init__(self):
        self.host = socket.gethostname()

    def bcast_array(self, array):
        pass

    def bcast(self, value):
        return value

    def allgather(self, value):
        return [value]

    def allreduce(self, array):
        pass

    def allreduce_scalars(self, values):
        return [float(value) for value in values]

    def allreduce_by(self, own, counts, function, out):
        out[:] = function(own)

    def reducer(self, threads=1, initializers=()):
        return ImmediateReducer()

    def barrier(self):
        pass

    def one_per_host_first(self, action):
        action()

    def end_together(self, status):
        pass

    def end_all(self, status):
        pass


class ImmediateReducer:
    """Does at once what it is handed: a rank alone waits for nobody, and needs no thread for it."""

    def start(self, action, *args):
        future = Future()
        try:
            future.set_result(action(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
