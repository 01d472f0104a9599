"""A run that stands still ends, and does not wait for ever: a rank is stopped, a cable cut, a file system hangs.

A thread of each rank looks at what the other threads wait for. It also writes that, once a second, into a file on this
host, so that the ranks that wait can say which of them is late, and what it does.
"""

import faulthandler
import fcntl
import json
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

STALLED = 124  # exit status, as that of timeout(1)
START = 600  # s: one rank of a host may compile kernels, while the others wait
PERIOD = 1.0  # s between looks
DELAY = 2.0  # s in which ranks that have something to say can say it, before one ends all
LAST = 10.0  # s after which a rank whose world cannot be ended ends itself
MOST_NAMED = 3  # hosts of which one may be late; of more, most are innocent
OF_RANKS = "other ranks"
COLLECTIVES = ("allgather", "allreduce", "allreduce_by", "allreduce_scalars", "barrier", "bcast", "bcast_array",
               "recover", "reducer")  # fmt: skip


class Watchdog:
    """Ends all ranks, with status STALLED, when a wait has lasted `limit_s` seconds (0: never). A context manager, in
    whose block it looks. Before the first iteration the limit is at least START seconds. All ranks make one together.

    world      the ranks
    folder     a Path on this host, of this user, for what the ranks of a host tell each other (None: nothing)
    run        identity of this start
    iteration  the running one; None before the first
    """

    def __init__(self, limit_s=0, world=None, folder=None, run=""):
        self.limit_s, self.iteration, self._world, self._waits, self._tokens = limit_s, None, world, {}, count()
        self._clock, self._free_since, self._end = 0.0, time.monotonic(), threading.Event()
        self._period, self._thread = min(PERIOD, limit_s / 10), None
        self._hosts, self._own, self._files = [], None, {}
        self._path = Path(folder) / f"{run}.{world.rank}.rank" if limit_s and folder else None
        if self._path:
            with suppress(OSError):
                self._own = os.open(self._path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
                fcntl.flock(self._own, fcntl.LOCK_SH)  # as long as this process lives
        self.ranks_have_changed()
        if self._path and self._path == min(self._files.values(), default=None):
            _remove_files_of_the_dead({*self._path.parent.glob("*.rank")} - {*self._files.values()})

    def ranks_have_changed(self):
        """The ranks of the world are others now, or have other numbers. All of them call it."""
        if self.limit_s:
            before, found = self._files, self._world.allgather((self._world.host, self._path and self._path.name))
            self._hosts, here = [host for host, _ in found], self._world.host
            self._files = {
                rank: self._path.with_name(name)
                for rank, (host, name) in enumerate(found)
                if self._path and name and host == here
            }
            for path in {*before.values()} - {*self._files.values()}:  # of ranks that have died
                path.unlink(missing_ok=True)

    @contextmanager
    def waiting(self, what):
        """The block waits for `what`, on any thread."""
        token = next(self._tokens)
        self._waits[token] = (what, self._clock, time.monotonic())
        try:
            yield
        finally:
            del self._waits[token]
            self._free_since = time.monotonic()

    def __enter__(self):
        if self.limit_s:
            self._tell(None, self._free_since)  # at once: a rank may be stopped within its first second
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._thread:
            self._end.set()
            self._thread.join()
        if self._own is not None:
            os.close(self._own)
            self._path.unlink(missing_ok=True)

    def _watch(self):
        last = time.monotonic()
        while not self._end.wait(self._period):
            now = time.monotonic()
            self._clock += min(now - last, 2 * self._period)  # it stands still while the process is stopped
            last = now
            waits = sorted(self._waits.copy().values(), key=lambda wait: wait[1])
            self._tell(*waits[0][::2] if waits else (None, self._free_since))
            limit_s = max(self.limit_s, START if self.iteration is None else 0)
            if waits and self._clock - waits[0][1] > limit_s:
                self._stalled(*waits[0][::2])
                return

    def _tell(self, what, since):
        """Write what this rank waits for (None: it computes), and since when, for the others of this host."""
        if self._own is not None:
            state = {"process": os.getpid(), "what": what, "since": since, "at": time.monotonic(),
                     "iteration": self.iteration}  # fmt: skip
            with suppress(OSError):
                os.pwrite(self._own, json.dumps(state).ljust(500).encode(), 0)

    def _stalled(self, what, since):
        """Say it, if this is the rank to do so, and end all."""
        rank, late = self._world.rank, {}
        if what == OF_RANKS:
            states = {other: self._state(other) for other in self._files if other != rank}
            late = {other: text for other, text in states.items() if text}
            first = rank == min({rank, *states} - {*late})
        says = what != OF_RANKS or (late and first) or rank == 0
        if not says:  # rank 0 does, or one on the host of the rank that is late
            time.sleep(2 * DELAY)
        others = sorted({*self._hosts} - {self._world.host})
        elsewhere = " or ".join(others) if len(others) <= MOST_NAMED else f"one of {len(others)} other hosts"
        whom = "; ".join(late.values()) or (f"a rank of {elsewhere}" if others else "not known")
        who, why = f"rank {rank} on {self._world.host}", f", late: {whom}" if what == OF_RANKS else ""
        line = f"{who} has waited {time.monotonic() - since:.0f} s for {what} in {_named(self.iteration)}{why}"
        os.write(sys.__stderr__.fileno(), f"train: stalled: {line}\n".encode())
        faulthandler.dump_traceback(sys.__stderr__)
        time.sleep(DELAY)
        self._end_all()

    def _end_all(self):
        last = threading.Timer(LAST, os._exit, [STALLED])
        last.daemon = True
        last.start()
        self._world.end_all(STALLED)
        os._exit(STALLED)

    def _state(self, rank):
        """What another rank of this host does, as a text; None if it waits for other ranks, too."""
        now = time.monotonic()
        try:
            state = json.loads(self._files[rank].read_text())
            who, what = f"rank {rank}, process {state['process']}", state["what"]
            if not Path(f"/proc/{state['process']}").exists():
                return f"{who}, which is dead"
            if now - state["at"] > 5 * self._period + DELAY:
                return f"{who}, which has not run for {now - state['at']:.0f} s"
            if what == OF_RANKS:
                return None
            does = f"waits for {what}" if what else "computes"
            return f"{who}, which {does} in {_named(state['iteration'])} since {now - state['since']:.0f} s"
        except (OSError, ValueError, KeyError, TypeError):
            return f"rank {rank}, of which nothing is known"

    def watched_world(self):
        """The world, whose calls count as waits."""
        return _World(self._world, self.waiting) if self.limit_s else self._world

    def watched_data(self, dataset):
        """A data set (None: none), whose reads count as waits."""
        return _Data(dataset, self.waiting) if self.limit_s and dataset is not None else dataset


def _named(iteration):
    return "the start" if iteration is None else f"iteration {iteration}"


def _remove_files_of_the_dead(paths):
    """Remove those files of ranks, of any run, that no process holds any more."""
    for path in paths:
        with suppress(OSError), open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


class _World:
    def __init__(self, world, waiting):
        self._world, self._waiting = world, waiting

    def __getattr__(self, name):
        found = getattr(self._world, name)
        if name not in COLLECTIVES:
            return found

        def call(*args):
            with self._waiting(OF_RANKS):
                return found(*args)

        return call


class _Data:
    def __init__(self, dataset, waiting):
        self._dataset, self._waiting = dataset, waiting

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        with self._waiting("a record"):
            return self._dataset[index]
