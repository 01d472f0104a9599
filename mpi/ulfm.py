"""Ranks of which some may die while the others go on: Open MPI's ULFM (User Level Failure Mitigation; Bland et al.,
Post-failure recovery of MPI communication capability, IJHPCA 27(3), 2013).

Under `mpirun --with-ft ulfm`, a call of a rank that waits for a dead one raises an error, but not on all ranks, and
others may wait for ever. So all communicators are revoked, which ends all calls, and one without the dead is made.

Blocking Allgatherv, and with it mpi4py's allgather of objects, may return after a death as if nothing had happened,
with buffers in which nothing was written. So everything is sent by calls that do not block, and every error of MPI
counts as a death.
"""

import atexit
import os
import pickle
import time
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np

from mpi.world import CHUNK, PAUSE, World, start_mpi

LAST = 10.0  # s that a rank waits for the others before it ends


class RankDied(Exception):
    """A rank has died, or MPI has failed in another way."""

    exit_status = 1


class Lost(NamedTuple):
    """As `nptrain.world.Lost`."""

    place: int
    rank: int
    host: str
    process: int
    dead: bool


class SurvivingWorld(World):
    """A World that goes on without ranks that die, and ends without MPI_Finalize, which might wait for them.

    members  by rank, its number at the start
    """

    failures = (RankDied,)

    def __init__(self):
        import mpi4py

        mpi4py.rc.finalize = False
        self._stops, self._left, self._reducers = False, [], []
        self.mpi = start_mpi()
        with self._deaths():
            super().__init__()
        self._ranks = self.allgather((self.host, os.getpid()))  # by number at the start
        self.members, self._first = list(range(self.size)), self.comm.group
        atexit.register(self._leave)

    @contextmanager
    def _deaths(self):
        """An error of MPI in the block becomes RankDied."""
        try:
            yield
        except self.mpi.Exception as error:
            raise RankDied(f"a rank has died, or MPI has failed ({error}): start again") from None

    def _wait(self, request):
        while not request.Test():
            if self._stops:
                self._left.append(request)
                raise RankDied("another thread has seen that a rank has died")
            time.sleep(PAUSE)

    def allreduce(self, array):
        with self._deaths():
            super().allreduce(array)

    def allreduce_by(self, own, counts, function, out):
        with self._deaths():
            super().allreduce_by(own, counts, function, out)

    def allreduce_scalars(self, values):
        mine, found = np.array([float(value) for value in values]), np.empty((self.size, len(values)))
        with self._deaths():
            self._wait(self._communicator.Iallgather(mine, found))
        return [sum(column) for column in found.T.tolist()]

    def bcast_array(self, array, root=0):
        flat = array.reshape(-1)
        with self._deaths():
            for at in range(0, flat.size, CHUNK):
                self._wait(self.comm.Ibcast(flat[at : at + CHUNK], root=root))

    def bcast(self, value):
        return self.allgather(value if self.rank == 0 else None)[0]

    def allgather(self, value):
        mine, sizes = np.frombuffer(pickle.dumps(value), np.uint8), np.empty(self.size, np.int64)
        with self._deaths():
            self._wait(self.comm.Iallgather(np.array([mine.size]), sizes))
            found = np.empty(sizes.sum(), np.uint8)
            self._wait(self.comm.Iallgatherv(mine, [found, sizes]))
        return [pickle.loads(part.tobytes()) for part in np.split(found, np.cumsum(sizes)[:-1])]

    def barrier(self):
        self._barrier(self.comm)

    def _barrier(self, comm):
        with self._deaths():
            self._wait(comm.Ibarrier())

    def reducer(self, threads=1, initializers=()):
        with self._deaths():
            self._reducers.append(super().reducer(threads, initializers))
        self.barrier()  # before anything is sent, all ranks have the communicators that they may have to revoke
        return self._reducers[-1]

    def one_per_host_first(self, action):
        for turn in (True, False):
            if (self.local_rank == 0) == turn:
                action()
            self._barrier(self.local)

    def recover(self):
        before = self.members
        while True:
            try:
                self._stop_all_that_travels()
                with self._deaths():
                    self._shrink()
                gone = [rank for rank in before if rank not in self.members]
                dead = {rank for found in self.allgather([*filter(self._is_dead, gone)]) for rank in found}
                return [Lost(before.index(rank), rank, *self._ranks[rank], rank in dead) for rank in gone]
            except RankDied:
                continue

    def _stop_all_that_travels(self):
        """End the threads of reducers, without a call of MPI by two threads at once, and what they waited for."""
        self._stops = True
        for reducer in self._reducers:
            reducer.close()
        self._stops = False
        for comm in (self.comm, *self._copies):
            comm.Revoke()
        for request in self._left:
            with suppress(RankDied), self._deaths():
                self._wait(request)
        self._reducers, self._copies, self._left = [], [], []

    def _shrink(self):
        """Make a communicator of those that live; all of them agree that it is whole."""
        old = self.comm
        while True:
            new = None
            with suppress(self.mpi.Exception):
                new = old.Shrink()
                if new.Agree(1):
                    break
            if new is not None:
                new.Revoke()
        self.comm, self.rank, self.size = new, new.rank, new.size
        self.members = list(new.group.Translate_ranks(range(new.size), self._first))
        here = [rank for rank, number in enumerate(self.members) if self._ranks[number][0] == self.host]
        self.local_rank, self.local_size = here.index(self.rank), len(here)

    def _is_dead(self, number):
        """Whether the process of a rank is known to have ended, which only ranks on its host can know."""
        host, process = self._ranks[number]
        if host != self.host:
            return False
        end = time.monotonic() + 1
        while not _has_ended(process) and time.monotonic() < end:
            time.sleep(PAUSE)
        return _has_ended(process)

    def end_together(self, status, line=None):
        with suppress(self.mpi.Exception):
            super().end_together(status, line)

    def _leave(self):
        """Wait for the others: one that ended now would be a death to them."""
        end = time.monotonic() + LAST
        with suppress(self.mpi.Exception):
            barrier = self.comm.Ibarrier()
            while not barrier.Test() and time.monotonic() < end:
                time.sleep(PAUSE)


def _has_ended(process):
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
