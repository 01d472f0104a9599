"""Ranks: who and how many they are, and what they tell each other. Knows no layers."""

import os
import socket
import sys
import threading
import time
from functools import partial
from itertools import pairwise

import numpy as np

from mpi.reducer import Reducer
from mpi.solo import Solo

# any of these in the environment: an MPI launcher started this process
LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS")
CHUNK = 1 << 26  # elements a message: below MPI's counts of 2**31 bytes
PAUSE = 2e-4  # s between looks at a sum that travels: who waits for others must not take the core from the kernels
LEVELS = ("single", "funneled", "serialized", "multiple")  # how many threads may talk to MPI, from few to many
ASKED_FOR = "multiple"  # any number of threads may talk to MPI at once: those of a reducer that has several
NEEDED = "serialized"  # one at a time talks to MPI, the main one or the reducer's only one
BELOW_IT = "sums that travel during the backward pass may disturb it; use one that is built for threads"

_connected = None


def connect():
    """The world of this process: MPI's, if a launcher started it, else `Solo`. The same one at every call."""
    global _connected
    if _connected is None:
        _connected = World() if any(name in os.environ for name in LAUNCHERS) else Solo()
    return _connected


def end(status):
    """End all ranks at once, if there are others; what this rank had to say is printed already."""
    if _connected is not None and _connected.size > 1:
        _connected.abort(status)


def leave(status):
    """All ranks end with `status`, each by itself: wait for one another, so that the first can say why before a
    launcher that sees one go ends the others. A rank that is not joined within seconds ends all.
    """
    world = connect()
    if world.size == 1:
        return
    everybody, deadline = world.comm.Ibarrier(), time.monotonic() + 10
    while not everybody.Test():
        if time.monotonic() > deadline:
            world.abort(status)
        time.sleep(0.01)
    if world.rank:
        time.sleep(0.5)  # as in abort


def _wait(request):
    while not request.Test():
        time.sleep(PAUSE)


def shortfall(library, found, expected=NEEDED):
    """The line that says that MPI's thread level is too low, and what follows; None if it is not."""
    if LEVELS.index(found) >= LEVELS.index(expected):
        return None
    return f"{library}: found thread level {found}, expected {expected}: {BELOW_IT}"


class World:
    """The ranks of MPI's world communicator. `thread_level` is the one of LEVELS that MPI granted."""

    def __init__(self):
        import mpi4py

        mpi4py.rc.thread_level = ASKED_FOR
        from mpi4py import MPI

        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        self._copies, self._of_thread = [], threading.local()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.host = socket.gethostname()
        self.local = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = self.local.rank, self.local.size
        version = MPI.Get_library_version().strip("\0").split(",")[0].splitlines()[0]
        self.library = " ".join(version.split())
        granted = MPI.Query_thread()
        self.thread_level = next(name for name in LEVELS if granted == getattr(MPI, f"THREAD_{name.upper()}"))
        line = shortfall(self.library, self.thread_level)
        if line and self.rank == 0:
            print(line, file=sys.stderr, flush=True)

    def broadcast(self, array):
        """Rank 0's values for everybody, in place. `array` is contiguous."""
        flat = array.reshape(-1)
        for at in range(0, flat.size, CHUNK):
            self.comm.Bcast(flat[at : at + CHUNK], root=0)

    def sum(self, array):
        """The sum over ranks of a flat array, in place."""
        for at in range(0, array.size, CHUNK):
            _wait(self._own.Iallreduce(self.mpi.IN_PLACE, array[at : at + CHUNK], op=self.mpi.SUM))

    def combine(self, mine, counts, function, out):
        """out = function(arrays), the arrays of all ranks in order of rank: `counts` says how many each has, `mine` are
        this rank's, all flat and of out's size. Ranks share the elements among them.
        """
        bounds = [out.size * rank // self.size for rank in range(self.size + 1)]
        lengths = np.diff(bounds)
        pieces = [array[start:stop] for start, stop in pairwise(bounds) for array in mine]
        send = np.concatenate(pieces) if pieces else out[:0]
        received = np.empty((sum(counts), lengths[self.rank]), out.dtype)
        _wait(self._own.Ialltoallv([send, len(mine) * lengths], [received, np.array(counts) * lengths[self.rank]]))
        _wait(self._own.Iallgatherv(np.ascontiguousarray(function(list(received))), [out, lengths]))

    @property
    def _own(self):
        """The communicator of the calling thread: sums of two threads must not be taken for one another."""
        return getattr(self._of_thread, "comm", self.comm)

    def reducer(self, threads=1):
        """A `Reducer`: threads that sum while others compute, as many on all ranks, which all call it. A single one
        talks to MPI in turn with the main thread, never at once; several need thread level "multiple".
        """
        while len(self._copies) < threads:
            self._copies.append(self.comm.Dup())
        return Reducer([partial(setattr, self._of_thread, "comm", copy) for copy in self._copies[:threads]])

    def sum_scalars(self, values):
        """The sums over ranks of a few floats, in float64; added in order of rank, the same on all."""
        return [sum(column) for column in zip(*self._own.allgather([float(v) for v in values]), strict=True)]

    def share(self, value):
        """Rank 0's value, a small object."""
        return self.comm.bcast(value, root=0)

    def gather(self, value):
        """Every rank's value, in order of rank, on all ranks."""
        return self.comm.allgather(value)

    def barrier(self):
        """Wait for all ranks."""
        self.comm.Barrier()

    def one_a_host_first(self, action):
        """Do something on one rank of each host, then on its others: they find what the first has cached."""
        if self.local_rank == 0:
            action()
        self.local.Barrier()
        if self.local_rank > 0:
            action()
        self.local.Barrier()

    def abort(self, status):
        """End all ranks."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.5)  # the launcher drops what it has not passed on by then
        self.comm.Abort(status)
