"""The ranks of MPI, and communication among them."""

import os
import socket
import sys
import threading
import time
from functools import partial
from itertools import pairwise

import numpy as np

from mpi.limited import FLUSH, limited
from mpi.reducer import Reducer

# any of these in the environment: an MPI launcher started this process
LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS")
SURVIVAL = "OMPI_MCA_mpi_ft_enable"  # what `mpirun --with-ft ulfm` of Open MPI sets
CHUNK = 1 << 26  # elements of a message: of 8 bytes each, they are fewer than MPI's limit of 2**31 bytes
PAUSE = 2e-4  # s between checks of a sum in flight: a thread that waits must leave its core to the kernels
LEVELS = ("single", "funneled", "serialized", "multiple")  # MPI's thread levels, in rising order
ASKED_FOR = "multiple"  # any number of threads may call MPI at once, as those of a reducer do
NEEDED = "serialized"  # one thread at a time calls MPI: the main one, or the only one of a reducer
START = 600.0  # s that all ranks may take to start MPI: the first may wait so long for the last
BELOW_IT = "sums during the backward pass may fail; use an MPI that is built for threads"


def connect():
    """The World, if an MPI launcher started this process, else None. To be called once in a process, which ends with a
    line if not all ranks have called it within START seconds.
    """
    if not any(name in os.environ for name in LAUNCHERS):
        return None
    with limited(START):
        if os.environ.get(SURVIVAL, "").lower() in ("1", "true", "yes"):
            from mpi.ulfm import SurvivingWorld  # which is a World

            return SurvivingWorld()
        return World()


def shortfall(library, found, expected=NEEDED):
    """A line for the user if MPI's thread level is below the expected one, else None."""
    if LEVELS.index(found) >= LEVELS.index(expected):
        return None
    return f"{library}: found thread level {found}, expected {expected}: {BELOW_IT}"


def start_mpi():
    """Start MPI in this process, if it has not started. Returns mpi4py's module."""
    import mpi4py

    mpi4py.rc.thread_level = ASKED_FOR
    from mpi4py import MPI

    return MPI


class World:
    """The ranks of MPI's world communicator. `thread_level` is the one of LEVELS that MPI granted."""

    failures = ()

    def __init__(self):
        MPI = self.mpi = start_mpi()
        self.comm = MPI.COMM_WORLD
        self._copies, self._of_thread = [], threading.local()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.host = socket.gethostname()
        self.local = self.comm.Split_type(MPI.COMM_TYPE_SHARED)  # here all ranks wait for each other
        self.local_rank, self.local_size = self.local.rank, self.local.size
        version = MPI.Get_library_version().strip("\0").split(",")[0].splitlines()[0]
        self.library = " ".join(version.split())
        granted = MPI.Query_thread()
        self.thread_level = next(name for name in LEVELS if granted == getattr(MPI, f"THREAD_{name.upper()}"))
        line = shortfall(self.library, self.thread_level)
        if line and self.rank == 0:
            print(line, file=sys.stderr, flush=True)

    def bcast_array(self, array, root=0):
        """Copy the values of the rank `root` to all ranks, in place. `array` is contiguous."""
        flat = array.reshape(-1)
        for at in range(0, flat.size, CHUNK):
            self.comm.Bcast(flat[at : at + CHUNK], root=root)

    def allreduce(self, array):
        """Sum a flat array over ranks, in place."""
        for at in range(0, array.size, CHUNK):
            self._wait(self._communicator.Iallreduce(self.mpi.IN_PLACE, array[at : at + CHUNK], op=self.mpi.SUM))

    def allreduce_by(self, own, counts, function, out):
        """out = function(arrays) of the arrays of all ranks, in order of rank: an alltoall, `function` on this rank's
        share of the elements, an allgather. Arrays are flat, of out's size.

        own     this rank's arrays
        counts  how many arrays each rank has
        """
        bounds = [out.size * rank // self.size for rank in range(self.size + 1)]
        lengths = np.diff(bounds)
        pieces = [array[start:stop] for start, stop in pairwise(bounds) for array in own]
        send = np.concatenate(pieces) if pieces else out[:0]
        received = np.empty((sum(counts), lengths[self.rank]), out.dtype)
        places = np.array(counts) * lengths[self.rank]
        self._wait(self._communicator.Ialltoallv([send, len(own) * lengths], [received, places]))
        self._wait(self._communicator.Iallgatherv(np.ascontiguousarray(function(list(received))), [out, lengths]))

    def _wait(self, request):
        while not request.Test():
            time.sleep(PAUSE)

    @property
    def _communicator(self):
        """The communicator of the calling thread: messages of two threads must not be mixed up."""
        return getattr(self._of_thread, "comm", self.comm)

    def reducer(self, threads=1, initializers=()):
        """A `Reducer` of that many threads, the same number on all ranks; all ranks call it. A single thread and the
        main thread call MPI in turn, never at once; several threads need thread level "multiple". Each thread calls
        the `initializers` first.
        """
        while len(self._copies) < threads:
            self._copies.append(self.comm.Dup())
        return Reducer([
            [*initializers, partial(setattr, self._of_thread, "comm", copy)] for copy in self._copies[:threads]
        ])  # fmt: skip

    def allreduce_scalars(self, values):
        """The sums over ranks of a few floats, in float64, added in order of rank: the same on all ranks."""
        return [sum(column) for column in zip(*self._communicator.allgather([float(v) for v in values]), strict=True)]

    def bcast(self, value):
        """Rank 0's value, a small object."""
        return self.comm.bcast(value, root=0)

    def allgather(self, value):
        """Every rank's value, in order of rank, on all ranks."""
        return self.comm.allgather(value)

    def barrier(self):
        """Wait for all ranks."""
        self.comm.Barrier()

    def recover(self):
        """There is nothing to go on from: a rank that dies ends all."""
        return []

    def one_per_host_first(self, action):
        """Call action() on one rank of each host, then on the others, which find what the first has cached."""
        if self.local_rank == 0:
            action()
        self.local.Barrier()
        if self.local_rank > 0:
            action()
        self.local.Barrier()

    def end_together(self, status, line=None):
        """Wait for the other ranks, which all end with `status`. A launcher that sees one rank end ends the others:
        rank 0 prints its message before that. A rank that waits for ten seconds prints its own `line`, and ends all.
        """
        if self.size == 1:
            return
        barrier, deadline = self.comm.Ibarrier(), time.monotonic() + 10
        while not barrier.Test():
            if time.monotonic() > deadline:
                if self.rank and line:
                    print(line, file=sys.stderr)
                self.end_all(status)
            time.sleep(0.01)
        if self.rank:
            time.sleep(FLUSH)

    def end_all(self, status):
        """End all ranks at once, if there are others. This rank has printed its message already."""
        if self.size == 1:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FLUSH)
        self.comm.Abort(status)
