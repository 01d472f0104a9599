"""The ranks, as the trainer sees them: the interface of `mpi.world.World`, and one process without MPI."""

import socket
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np


class Reducer(Protocol):
    """Runs sums over ranks, in order, while other threads compute. A context manager."""

    def start(self, action, *args) -> Future:
        """Begin action(*args). Returns a Future, whose `result()` waits, and raises what the action raised."""


class Lost(Protocol):
    """A rank that `World.recover` goes on without.

    place    its rank until then           rank     its rank at the start
    host, process                          dead     whether it is known to have died: else it may go on elsewhere
    """

    place: int
    rank: int
    host: str
    process: int
    dead: bool


class World(Protocol):
    """Ranks 0 .. size - 1, of which this is `rank`, on the machine `host`. All ranks call a method together. A method
    raises one of `failures` when a rank has died and the others can go on: they all call `recover` then.
    """

    failures: tuple[type[Exception], ...]
    rank: int
    size: int
    host: str
    local_rank: int  # on its host

    def bcast_array(self, array: np.ndarray, root=0):
        """Copy the values of the rank `root` to all ranks, in place. `array` is contiguous."""

    def bcast(self, value: Any) -> Any:
        """Rank 0's value, a small object."""

    def allgather(self, value: Any) -> list:
        """Every rank's value, a small object, in order of rank."""

    def allreduce(self, array: np.ndarray):
        """Sum a flat array over ranks, in place."""

    def allreduce_scalars(self, values) -> list[float]:
        """The sums over ranks of a few floats, in float64, the same on all."""

    def allreduce_by(self, own, counts, function, out):
        """out = function(arrays) of the arrays of all ranks, in order of rank. All are flat, of out's size; `function`
        is called on each rank with its share of the elements.

        own     this rank's arrays
        counts  how many arrays each rank has
        """

    def reducer(self, threads=1, initializers=()) -> Reducer:
        """A Reducer of that many threads, each of which calls the `initializers` first."""

    def barrier(self):
        """Wait for all ranks."""

    def recover(self) -> list[Lost]:
        """Go on without the ranks that have died, which are returned in order: the others get new ranks 0 .. size - 1,
        in the same order, and new local ranks. What was being sent is lost, and reducers have ended.
        """

    def one_per_host_first(self, action):
        """Call action() on one rank of each host, then on the others. Not after `recover`."""

    def end_together(self, status: int, line: str | None = None):
        """Prepare to end with `status` after an error that all ranks have raised; rank 0 has printed its `line`."""

    def end_all(self, status: int):
        """End all ranks with `status` after an error of this rank."""


class Solo:
    """A World of one rank, which sends nothing."""

    failures, rank, size, local_rank, local_size = (), 0, 1, 0, 1
    library, thread_level = "none", "multiple"

    def __init__(self):
        self.host = socket.gethostname()

    def bcast_array(self, array, root=0):
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

    def recover(self):
        return []

    def one_per_host_first(self, action):
        action()

    def end_together(self, status, line=None):
        pass

    def end_all(self, status):
        pass


class ImmediateReducer:
    """A Reducer of a single rank: it runs an action at once, without a thread."""

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
