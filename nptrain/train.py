"""The training loop: phases, iterations, tests and checkpoints. One iteration is `train_step`.

The recipe's workers are logical. A rank runs a contiguous range of them, one after another, and adds up their
gradients. The images of worker w in iteration i depend on (seed, phase, i, w) alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nptrain.caffe_net.writer import trained_net
from nptrain.data.bad_records import BadRecords
from nptrain.data.lmdb_dataset import LmdbDataset
from nptrain.data.loader import TrainLoader
from nptrain.evaluate import evaluate
from nptrain.network.resnet import ResNet
from nptrain.recipes.recipe import Recipe
from nptrain.recipes.schedule import learning_rate
from nptrain.recovery import Position, recover, share_arrays, share_state
from nptrain.run import checkpoint
from nptrain.run.best import Test, best_of, without_improvement
from nptrain.run.log import Log
from nptrain.run.saver import Saver
from nptrain.run.snapshots import Snapshots
from nptrain.run.stragglers import Stragglers
from nptrain.run.stragglers import line as straggler_line
from nptrain.run.watchdog import Watchdog
from nptrain.same_state import expect_finite, expect_same_state
from nptrain.step import BUCKET_BYTES, Reduction, Told, train_step, worker_range
from nptrain.world import World


@dataclass(frozen=True)
class Options:
    """How a recipe is run. Results depend on this only through the order of sums and the rounding to bf16.

    decode_threads      threads that decode images ahead of the step; they call `decode_initializer` first, if not None
    comm_threads        threads that sum over ranks, as many as buckets that can be in flight at once; the same number
                        on all ranks; they call the `comm_initializers` first
    max_bad_records     damaged training records that all ranks together replace by the next good one, since the start
    check_every         iterations after which ranks compare their weights, as they do before each checkpoint (0: never)
    bucket_bytes, reproducible, compress  as in `step.Reduction.of`
    keep                checkpoints that are kept, see `checkpoint.remove_older`; None: all
    early_stop          tests without a better top-1 that end a phase; None: none do
    """

    decode_threads: int = 1
    decode_initializer: Callable | None = None
    comm_threads: int = 1
    comm_initializers: tuple[Callable, ...] = ()
    max_bad_records: int = 0
    check_every: int = 0
    bucket_bytes: int = BUCKET_BYTES
    reproducible: bool = False
    compress: bool = False
    keep: int | None = None
    early_stop: int | None = None


@dataclass
class Trainer:
    """One run of a recipe on this rank.

    folder       of the checkpoints
    val_data     None: there are no tests
    stop_wanted  whether this rank wants the run to end after the running iteration
    tests        those that the run has made already, when it goes on
    snapshots    keeps the state after each iteration
    watchdog     is told what is waited for
    take_over    on a rank that becomes rank 0, or was behind as rank 0, when others have died: makes the Log of where
                 the run goes on, a Checkpoint, whether its test is done, and the last entries of metrics.jsonl (None:
                 there is no log from then on)
    at           the Position
    bad_records  those that have been replaced since the start
    stopped      set if the run has ended because a rank wanted it, with a checkpoint, before all phases were done
    """

    recipe: Recipe
    network: ResNet
    train_data: LmdbDataset
    val_data: LmdbDataset | None
    folder: Path
    world: World
    log: Log
    seed: int
    options: Options = Options()
    stop_wanted: Callable[[], bool] = bool  # bool() is False
    tests: list[Test] = field(default_factory=list)
    snapshots: Snapshots = field(default_factory=Snapshots)
    watchdog: Watchdog = field(default_factory=Watchdog)
    take_over: Callable | None = None
    at: Position | None = None
    failed_at: Position | None = None  # where MPI has failed, for the last time, though no rank has died
    bad_records: BadRecords = field(default_factory=BadRecords)
    slow: set = field(default_factory=set)  # ranks, as Stragglers names them
    log_s: float = 0.0  # of the last iteration's lines
    stopped: bool = False
    saver: Saver = field(init=False)

    def __post_init__(self):
        self.saver = Saver(self.recipe, trained_net(self.recipe), self.network.arena, self.folder, self.world, self.log,
                           self.watchdog, self.tests, self.options.keep, self.options.decode_initializer)  # fmt: skip

    def run(self, phases, iterations=None, resume_from=None, finish=lambda last: None):
        """Train the named phases in order, each up to iteration `iterations` at most. Returns the last Checkpoint. Goes
        on without ranks that die, if the world can.

        The network holds the weights to start from. `resume_from` is the Checkpoint from which they, and the momentum,
        were loaded; None if there was none. At the end all ranks call finish(the last Checkpoint); once more if a rank
        has died meanwhile.
        """
        self.at, unsaved = Position.first(phases, resume_from), bool(resume_from and resume_from.unsaved)
        if self.world.rank:
            self.at = None  # it comes from rank 0, with the state
        with self.saver:
            while True:
                try:
                    share_state(self)
                    last = self._phases(phases, iterations, unsaved)
                    finish(last)
                    self.world.barrier()
                    return last
                except self.world.failures as error:
                    recover(self, error)
                    unsaved = True

    def _phases(self, phases, iterations, unsaved):
        """Train the named phases from the position on. `unsaved` says that the checkpoint there may be missing."""
        names = [phase.name for phase in self.recipe.phases]
        for name in phases:
            phase = self.recipe.phases[names.index(name)]
            stop = phase.max_iter if iterations is None else min(iterations, phase.max_iter)
            if names.index(self.at.phase) > names.index(name):
                continue
            if self.at.phase != name or not self.at.begun:
                self.at = Position(name, begun=False)
                self._start_from_phase_before(phase)
                self.at = Position(name)
            start = self.at.iteration
            self.log.begin(phase, start, stop, self.recipe.images_of(phase) / len(self.train_data))
            if unsaved and start and Saver.is_due(phase, start, stop):
                self._expect_finite(phase, start)
                self.saver.save(phase, start, self.at.progress, missing=True)  # it was due at a death
            last = self._phase(phase, start, stop)
            self.log.end(last)
            if self.stopped:
                break
        return checkpoint.Checkpoint(self.folder, phase.name, last, prefix=phase.snapshot_prefix)

    def _start_from_phase_before(self, phase):
        """Load the weights (not the momentum) of the phase before, at the iteration that the recipe names."""
        self.snapshots.wait()
        if self.world.rank == 0:
            line = checkpoint.load_start_of(phase, self.recipe, self.folder, self.network.arena)
            self.log.say(f"phase {phase.name}: {line}")
        self.network.arena.history[:] = 0
        share_arrays(self.network.arena, self.world)

    def _phase(self, phase, start, stop):
        """Train a phase from iteration `start` to `stop`. Returns the iteration at which it ended."""
        recipe, options, done = self.recipe, self.options, start
        if self._test_is_due(phase, start, stop):  # also after a resume: a checkpoint is saved before the test
            self._test(phase, start)
            if self._stops_early(phase, start, stop):
                self.saver.save(phase, start, self.at.progress, missing=True)  # it may have died in the test
                return start
        with self._loader(phase, start, stop) as loader, self._reducer() as reducer:
            batches, stragglers = iter(loader), self._stragglers()
            reduction = Reduction.of(self.network, recipe, phase, self.world, reducer, options.bucket_bytes,
                                     options.reproducible, options.compress)  # fmt: skip
            for iteration in range(start, stop):
                before, done = self.at.progress, iteration + 1
                step = self._step(phase, iteration, batches, reduction, before, loader)
                self.at = Position(phase.name, done, step.progress)
                self._log_step(phase, iteration, before, step, stragglers)
                if step.bad_records:
                    self.bad_records.name(self.world, options.max_bad_records, self.log.say)
                last, save_is_due = step.stop or done == stop, step.stop or Saver.is_due(phase, done, stop)
                if save_is_due or last or (options.check_every and done % options.check_every == 0):
                    self._expect_finite(phase, done)
                    expect_same_state(self.network.arena, phase, done, self.world)
                if save_is_due:
                    (self.saver.save if last else self.saver.begin)(phase, done, step.progress)
                    reduction.sums.forget()  # as in a run that resumes here
                if step.stop:  # a test that is due comes when the run goes on
                    self.stopped = True
                    break
                if self._test_is_due(phase, done, stop):
                    self._test(phase, done)
                    if self._stops_early(phase, done, stop):
                        if not save_is_due:
                            self.saver.save(phase, done, step.progress)
                        break
        self.saver.finish()
        return done

    def _loader(self, phase, start, stop):
        recipe, options = self.recipe, self.options
        mine = worker_range(recipe.workers, self.world.rank, self.world.size)
        loader = TrainLoader(
            self.train_data, phase.train_transform(recipe), seed=self.seed,
            phase=[p.name for p in recipe.phases].index(phase.name), workers=recipe.workers,
            batch_size=recipe.batch_of(phase), my_workers=mine, start_iteration=start, stop_iteration=stop,
            iter_size=phase.iter_size, shuffle=phase.shuffle, prefetch=phase.prefetch,
            threads=options.decode_threads, initializer=options.decode_initializer,
            max_bad_records=options.max_bad_records)  # fmt: skip
        loader.bad_records = self.bad_records  # also those of phases before, and of other ranks
        return loader

    def _reducer(self):
        return self.world.reducer(self.options.comm_threads, self.options.comm_initializers)

    def _stragglers(self):
        mine = worker_range(self.recipe.workers, self.world.rank, self.world.size)
        return Stragglers(self.world, len(mine), self.slow)

    def _step(self, phase, iteration, batches, reduction, progress, loader):
        self.watchdog.iteration = iteration
        with self.saver.naming_the_last():
            return train_step(self.network, self.recipe, phase, iteration, batches, reduction, progress,
                              lambda: Told(loader.take_wait_s(), self.stop_wanted(), self.bad_records.unnamed),
                              self.before_update)  # fmt: skip

    def before_update(self):
        """Wait until the arena may change."""
        self.snapshots.wait()
        self.saver.before_update()

    def _expect_finite(self, phase, done):
        with self.saver.naming_the_last():
            expect_finite(self.network.arena, phase, done)

    def _log_step(self, phase, iteration, before, step, stragglers):
        """Log an iteration that is done, `before` which the Progress was another, and begin to keep its state."""
        slow = []
        try:
            slow = stragglers.after(iteration, {**step.times, "log_s": self.log_s})
        finally:  # also if a rank has died meanwhile: it is done
            began = time.perf_counter()
            self._log_done(phase, iteration, before, step, slow)
            self.log_s = time.perf_counter() - began

    def _log_done(self, phase, iteration, before, step, slow):
        progress = step.progress
        rate = learning_rate(phase, iteration, progress.current_step)
        if phase.lr_policy == "plateau" and progress.current_step > before.current_step:  # the same loss on all ranks
            self.log.say(f"phase {phase.name}, iteration {iteration}: the smoothed loss has not gone below "
                         f"{progress.minimum_loss:.4f} since iteration {before.iter_last_event}: lr "
                         f"{rate:.4g}")  # fmt: skip
        entry = self.log.iteration(iteration, rate, step.loss, step.images_per_s, step.data_wait_s,
                                   smoothed_loss=progress.smoothed_loss, **step.times,
                                   **({"slow": slow} if slow else {}))  # fmt: skip
        for each in slow:
            self.log.say(straggler_line(each))
        self.snapshots.note(entry)
        self.snapshots.begin(phase.name, iteration + 1, progress)

    def _test_is_due(self, phase, done, stop):
        if done == 0:
            return phase.test_initialization
        return done >= stop or (phase.test_interval and done % phase.test_interval == 0)

    def _test(self, phase, iteration):
        if self.val_data is None or any(test[:2] == (phase.name, iteration) for test in self.tests):
            return
        transform, records = self.recipe.test_transform(), self.recipe.test_records(phase)
        self.log.begin_test(iteration)
        result = evaluate(self.network, self.val_data, transform, self.recipe, self.world,
                          self.options.decode_threads, records, self.options.decode_initializer)  # fmt: skip
        empty = not self.network.arena.factors.any()  # before the first iteration
        entry = self.log.test(iteration, result, "the running averages are empty, and the scores overflow" if empty else
                      "the scores are not finite")  # fmt: skip
        self.snapshots.note(entry)
        self.tests.append(Test.of(phase.name, iteration, result))
        self.saver.finish()
        if best_of(self.tests) is self.tests[-1]:
            self.log_best(self.tests[-1])

    def log_best(self, test):
        """Log that a Test is the best so far, with its checkpoint."""
        prefix = self.recipe.phase(test.phase).snapshot_prefix
        saved = checkpoint.Checkpoint(self.folder, test.phase, test.iteration, prefix=prefix)
        self.log.best(test, saved.model if saved.manifest.exists() else None)

    def _stops_early(self, phase, done, stop):
        """Whether a phase ends at iteration `done`, after a test, as there was no better one for long. All ranks have
        the same results, bit for bit, so they agree.
        """
        count, most = without_improvement(self.tests, phase.name), self.options.early_stop
        if most is None or count < most or done >= stop:
            return False
        self.log.say(f"phase {phase.name} ends at iteration {done}: no better top-1 in {count} tests (--early-stop)")
        return True
