"""Checkpoints of a run, written beside the step: a thread writes while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from nptrain.errors import InputError, TrainingError
from nptrain.files import retried
from nptrain.recipes.recipe import Recipe
from nptrain.run import checkpoint
from nptrain.run.best import Test, best_of
from nptrain.run.log import Log
from nptrain.run.watchdog import Watchdog

MOST_UNSAVED = 3  # checkpoints in a row that cannot be written, after which a run ends


@dataclass
class Saver:
    """Saves checkpoints of the arena on rank 0, one at a time; on the others its methods do nothing but wait for rank 0
    where they say so. A context manager: at its end nothing is being written.

    net          a NetParameter, as in `checkpoint.save`
    world        the ranks
    tests        the run's so far; their list grows
    keep         checkpoints that are kept, see `checkpoint.remove_older`; None: all
    initializer  called first by the thread that writes, if not None
    unsaved      checkpoints in a row that could not be written
    """

    recipe: Recipe
    net: Any
    arena: Any
    folder: Path
    world: Any
    log: Log
    watchdog: Watchdog
    tests: list[Test]
    keep: int | None = None
    initializer: Any = None
    unsaved: int = 0
    _running: Future | None = None
    _copied: Event = field(default_factory=Event)

    def __enter__(self):
        self._thread = ThreadPoolExecutor(1, "checkpoint", self.initializer)
        self._there = self.folder.is_dir()
        return self

    def __exit__(self, *_):
        self._thread.shutdown()

    @staticmethod
    def is_due(phase, done, stop):
        """Whether a checkpoint is due after `done` iterations of a phase that ends at `stop`."""
        return bool((done == stop and phase.snapshot_after_train) or (phase.snapshot and done % phase.snapshot == 0))

    def begin(self, phase, iteration, progress):
        """Begin to save the state after so many iterations of a phase, with its Progress, when the checkpoint before is
        written. Call `before_update` before the arena changes. A checkpoint that cannot be written is said; after
        MOST_UNSAVED in a row, this method or one of those below raises InputError on rank 0.
        """
        self.finish()
        if self.world.rank == 0:
            self._start(phase, iteration, progress)
        if checkpoint.starts_a_phase(self.recipe, phase, iteration):
            self.finish()  # if it were lost by a death, the phase would start from an older one

    def save(self, phase, iteration, progress, missing=False):
        """Save a checkpoint, and wait for it on all ranks; with `missing`, only if it is not there. Raises InputError
        on rank 0 if it cannot be written, and names the last one.
        """
        self.finish()
        manifest = checkpoint.Checkpoint(self.folder, phase.name, iteration).manifest
        if self.world.rank == 0 and not (missing and manifest.exists()):
            self._start(phase, iteration, progress, waits=True)
            self.finish(may_fail=False)
        self.world.barrier()

    def _start(self, phase, iteration, progress, waits=False):
        best = best_of(self.tests)
        self.log.saving(checkpoint.Checkpoint(self.folder, phase.name, iteration, prefix=phase.snapshot_prefix))
        self._copied.clear()
        self._running = self._thread.submit(self._write, phase, iteration, progress, best and best[:2], waits)

    def _write(self, phase, iteration, progress, best, waits):
        """(the Checkpoint, what is wrong with older ones or None), on the thread. If the training `waits`, the arena
        stands still, and an attempt may be repeated.
        """
        problem = None
        if self._there and not self.folder.is_dir():
            problem = f"{self.folder}: was removed or renamed: it is made again, without the checkpoints before"
        arguments = (self.arena, self.net, progress, phase.snapshot_prefix, self._copied.set)
        save = partial(checkpoint.save, self.folder, phase.name, iteration, *arguments)
        try:
            with self.watchdog.waiting("a checkpoint to be written"):
                saved = retried(save, self.folder) if waits else save()
                self._there = True
                if self.keep:
                    try:
                        checkpoint.remove_older(self.recipe, self.folder, self.keep, best)
                    except InputError as error:
                        problem = f"--keep: an older checkpoint could not be removed: {error}"
            return saved, problem
        finally:
            self._copied.set()

    def before_update(self):
        """Wait until the arena may change."""
        if self._running:
            self._copied.wait()
            if self._running.done():
                self.finish()

    def finish(self, may_fail=True):
        """Wait until nothing is being written. Raises InputError if what was cannot be, and may not fail."""
        running, self._running = self._running, None
        try:
            saved, problem = running.result() if running else (None, None)
        except InputError as error:
            self.unsaved += 1
            if not may_fail:
                raise InputError(f"{error}; {self._last()}") from None
            if self.unsaved == MOST_UNSAVED:
                raise InputError(f"{error}; so it was {MOST_UNSAVED} times in a row; {self._last()}") from None
            self.log.say(f"no checkpoint, and the run goes on: {error}")
        else:
            if saved:
                self.unsaved = 0
                self.log.saved(saved)
            if problem:
                self.log.say(problem)

    @contextmanager
    def naming_the_last(self):
        """A TrainingError of the block names the last checkpoint."""
        try:
            yield
        except TrainingError as error:
            with suppress(InputError):
                self.finish()
            raise TrainingError(f"{error}; {self._last()}") from None

    def _last(self):
        saved = checkpoint.list_complete(self.folder, [phase.name for phase in self.recipe.phases])
        return f"the last checkpoint is {saved[-1].model}" if saved else "there is no checkpoint"
