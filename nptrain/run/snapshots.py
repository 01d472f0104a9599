"""The snapshots of a run: one process of each host writes them, beside the step; the newest on any host is taken."""

import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from nptrain.errors import TrainingError
from nptrain.run.snapshot import Snapshot, SnapshotFile, layout, make_folder, newest, state_of

LINES = 16  # of metrics.jsonl that a snapshot has, should rank 0 or its host have died before they were on disk


class Snapshots:
    """Writes a snapshot after each iteration, on the lowest rank of each host; on the others, and with `folder` None,
    nothing. Weights must stand still from `begin` to `wait`. A context manager: at its end the run's files on this
    host are removed, unless the run shall go on from them after an error.

    folder       a Path (`snapshot.place`)
    run          identity of the run
    initializer  called first by the thread that writes, if not None
    lines        the last entries of metrics.jsonl, on all ranks

    Each start has files of its own: a process of an earlier start, should one live, writes to another file. Those are
    removed when there is a newer snapshot. Raises InputError if the folder cannot be written or has no room.
    """

    def __init__(self, folder=None, run="", arena=None, world=None, initializer=None):
        self.file, self._pending, self.lines = None, None, deque(maxlen=LINES)
        self._run, self._older, self._initializer = run, [], initializer
        self._folder, self._arena, self._world = folder, arena, world
        self.take_over()

    def take_over(self):
        """Begin to write, if this is the lowest rank of its host now."""
        if self._folder is None or self._world.local_rank or self.file:
            return
        make_folder(self._folder)
        self._older, self._layout = files_of(self._folder, self._run), layout(self._arena)
        self.file = SnapshotFile(self._folder / f"{self._run}.{secrets.token_hex(4)}.snapshot", self._arena)
        self._thread = ThreadPoolExecutor(1, "snapshot", self._initializer)

    def note(self, entry):
        """Keep an entry of metrics.jsonl for the next snapshots."""
        self.lines.append(entry)

    def begin(self, phase, iteration, progress):
        """Begin to write the state after `iteration` updates of a phase, with its Progress."""
        if self.file:
            snapshot = Snapshot(self._run, self._layout, phase, iteration, progress, tuple(self.lines))
            self._pending = self._thread.submit(self._write, snapshot)

    def _write(self, snapshot):
        self.file.write(snapshot)
        for path in self._older:
            path.unlink(missing_ok=True)
        self._older = []

    def wait(self):
        """Wait until what was begun is written."""
        if self._pending:
            self._pending.result()
            self._pending = None

    def remove(self):
        """Remove the run's files on this host, also those that processes of earlier starts have left."""
        if self.file:
            for path in files_of(self._folder, self._run):
                with suppress(OSError):
                    path.unlink()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if self.file:
            self._thread.shutdown()
            # numbers that are not finite, or not the same on all ranks, must not come back
            if error is None or issubclass(error, TrainingError):
                self.remove()


class Newest(NamedTuple):
    """The newest Snapshot, and its host. `fill()` copies its state into the arenas of all ranks, which all call it."""

    snapshot: Snapshot
    host: str
    fill: Callable


def files_of(folder, run):
    """The files of a run's snapshots on this host; of all runs, if it is "*"."""
    return sorted(folder.glob(f"{run}.*.snapshot"))


def find(folder, run, arena, phases, world, say):
    """The Newest whole snapshot of a run on any host, or None. `phases` are the names of all phases. Calls say(line) on
    its host for each that is not usable. All ranks call it.
    """
    paths = [] if world.local_rank else files_of(folder, run)
    found = newest(paths, run, arena, phases, lambda line: say(f"rank {world.rank} on {world.host}: {line}"))
    places = world.allgather(found and (phases.index(found.snapshot.phase), found.snapshot.iteration))
    if not any(places):
        return None
    owner = places.index(max(filter(None, places)))

    def fill():
        if world.rank == owner:
            found.fill(arena)
        for array in state_of(arena):
            world.bcast_array(array, owner)

    snapshot = world.allgather(found.snapshot if world.rank == owner else None)[owner]
    return Newest(snapshot, world.allgather(world.host)[owner], fill)
