"""The training loop: phases, iterations, workers; tests and checkpoints in between.

The recipe's workers are logical. A rank carries a contiguous share of them and runs one after another,
adding gradients; what worker w sees at iteration i depends on (seed, i, w) alone.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nptrain import checkpoint
from nptrain.compression import WIRE_BYTES, CompressedSum
from nptrain.data.loader import TrainLoader
from nptrain.errors import InputError, TrainingError
from nptrain.evaluate import evaluate
from nptrain.exchange import Exchange, Times, room_for_sums
from nptrain.ordered import OrderedSum, in_any_order
from nptrain.schedule import Progress, advance, learning_rate
from nptrain.update import update


def share(total, rank, size):
    """The workers of a rank: a contiguous range; sizes differ by one at most."""
    return range(total * rank // size, total * (rank + 1) // size)


@dataclass
class Trainer:
    """One run of a recipe on this rank.

    network   a ResNet          world    rank, size, broadcast, sum, combine, sum_scalars, reducer, gather, barrier
    log       nptrain.log.Log
    val_data  None: no tests    folder   of the checkpoints
    threads   that decode images ahead of the step
    max_bad_records   of the training data that a rank replaces by the next good one, instead of stopping
    bucket_bytes      of gradients that travel together
    reproducible      sum over workers in an order that the number of ranks does not change
    compress          gradients travel as bf16; not together with `reproducible`
    comm_threads      that sum over ranks, on all ranks as many: so many buckets travel at once
    """

    recipe: Any
    network: Any
    train_data: Any
    val_data: Any
    folder: Path
    world: Any
    log: Any
    seed: int
    threads: int
    max_bad_records: int = 0
    bucket_bytes: int = 16 << 20
    reproducible: bool = False
    compress: bool = False
    comm_threads: int = 1

    def run(self, phases, iterations=None, resume_from=None):
        """Train the named phases in order, each for `iterations` at most. Weights are in the network already;
        `resume_from` is the checkpoint they (and the momentum) came from, if they did.
        """
        names = [phase.name for phase in self.recipe.phases]
        self._synchronise()
        for name in phases:
            phase = self.recipe.phases[names.index(name)]
            stop = phase.max_iter if iterations is None else min(iterations, phase.max_iter)
            start, progress = 0, Progress()
            if resume_from and resume_from.phase == name:
                start, progress = resume_from.iteration, resume_from.progress or Progress()
            elif resume_from and names.index(resume_from.phase) > names.index(name):
                continue
            elif name != phases[0] or resume_from:
                self._start_from_phase_before(phase)
            self.log.begin(phase, start, stop)
            self._phase(phase, start, stop, progress)
        return checkpoint.Checkpoint(self.folder, phase.name, max(start, stop), prefix=phase.snapshot_prefix)

    def _start_from_phase_before(self, phase):
        """Weights (not the momentum) of the phase before, at the iteration that the recipe names."""
        if self.world.rank == 0:
            self.log.say(f"phase {phase.name}: {start_weights(self.recipe, phase, self.folder, self.network.arena)}")
        self.network.arena.history[:] = 0
        self._synchronise()

    def _synchronise(self):
        """Rank 0's weights, statistics and momentum for everybody."""
        arena = self.network.arena
        for array in (arena.weights, arena.statistics, arena.factors, arena.history):
            self.world.broadcast(array)

    def _phase(self, phase, start, stop, progress):
        recipe, arena = self.recipe, self.network.arena
        index = [p.name for p in recipe.phases].index(phase.name)
        mine = share(recipe.workers, self.world.rank, self.world.size)
        if self._test_is_due(phase, start, stop):  # also where a run resumes: the test came after the checkpoint
            self._test(phase, start)
        loader = TrainLoader(
            self.train_data, phase.train_transform(recipe), seed=self.seed + 1_000_003 * index,
            workers=recipe.workers, batch_size=recipe.batch_size, my_workers=mine, start_iteration=start,
            stop_iteration=stop, iter_size=phase.iter_size, shuffle=phase.shuffle,
            prefetch=phase.prefetch, threads=self.threads, max_bad_records=self.max_bad_records)  # fmt: skip
        count = recipe.workers * phase.iter_size
        sums = arena.gradients if self.reproducible else room_for_sums(arena.gradients, count)
        ordered = self._ordered() if self.reproducible else None
        compressed = None
        if self.compress and self.world.size > 1:
            compressed = CompressedSum(self.world, self.network.ops, arena.size, arena.dtype)

        def total(part):
            if ordered:
                ordered.total(sums, part)
            elif compressed:
                compressed.total(sums, part)
            else:
                self.world.sum(sums[part])

        with loader, self.world.reducer(self.comm_threads) as reducer:
            batches = iter(loader)
            for iteration in range(start, stop):
                times = Times()
                exchange = Exchange(sums, reducer.start, total, self.bucket_bytes, WIRE_BYTES if compressed else None)

                def sums_of(loss, send=exchange.send):
                    values = [loss, loader.take_wait_s() / self.world.size]
                    return send(8 * len(values), self.world.sum_scalars, values)

                with np.errstate(over="ignore", invalid="ignore"):  # the check of the loss says it in one line
                    loss, data_wait = self._gradients(
                        phase, batches, mine, exchange, times, sums_of, ordered).result()  # fmt: skip
                loss /= count
                self._check(loss, phase, iteration)
                progress = self._advance(progress, phase, iteration, loss)
                update(arena, phase, iteration, count, exchange.home(arena.gradients), progress.current_step)
                arena.blend_statistics(recipe.moving_average_fraction, phase.iter_size, recipe.workers)
                times.mark("update_s")
                speed = count * recipe.batch_size / times.total
                self.log.iteration(iteration, learning_rate(phase, iteration, progress.current_step), loss, speed,
                                   data_wait, smoothed_loss=progress.smoothed_loss,
                                   **times.result(exchange))  # fmt: skip
                done = iteration + 1
                if (done == stop and phase.snapshot_after_train) or (phase.snapshot and done % phase.snapshot == 0):
                    self._save(phase, done, progress)
                    if compressed:
                        compressed.clear()  # a run that resumes here has nothing kept back either
                if self._test_is_due(phase, done, stop):
                    self._test(phase, done)

        self._report(loader.bad_records)

    def _report(self, bad_records):
        """Say which bad records any rank has replaced in this phase."""
        lines = sorted({line for found in self.world.gather(bad_records) for line in found.values()})
        for line in lines:
            self.log.say(f"replaced a bad record: {line}")

    def _gradients(self, phase, batches, mine, exchange, times, sums_of, ordered):
        """Sum the gradients and batch statistics of this rank's workers, and send them off as they become final.
        Returns sums_of(the sum of their losses), called before the last of them, so that it goes first.
        """
        arena, network, recipe, sums = self.network.arena, self.network, self.recipe, exchange.sums
        apart = ordered or sums is not arena.gradients

        def add(part):
            if ordered:
                ordered.add(worker, arena.gradients, part)
            elif apart:
                network.ops.add_into(sums[part], arena.gradients[part])

        sums[:] = 0
        if ordered:
            ordered.clear()
        loss = 0.0
        for worker in mine:
            if apart:
                arena.gradients[:] = 0
            for turn in range(phase.iter_size):
                if turn:
                    arena.gradients[arena.size :] *= recipe.moving_average_fraction
                batch = next(batches)
                times.mark("data_s")
                x = network.pack_images(batch.images, recipe.mean_bgr, recipe.scale)
                one, _ = network.forward(x, batch.labels)
                loss += in_any_order(one) if ordered else one
                times.mark("forward_s")
                if worker == mine[-1] and turn + 1 == phase.iter_size:
                    sent = sums_of(loss)
                    network.backward(lambda offset: exchange.ready(offset, add))
                else:
                    network.backward()
                    if turn + 1 == phase.iter_size:
                        add(slice(0, sums.size))
                times.mark("backward_s")
        if not mine:
            sent = sums_of(loss)
            for offset in network.offsets():
                exchange.ready(offset)
        return sent

    def _ordered(self):
        """Sums whose order the number of workers decides, and nothing else."""
        shares = [share(self.recipe.workers, rank, self.world.size) for rank in range(self.world.size)]
        gradients = self.network.arena.gradients
        return OrderedSum(self.recipe.workers, shares, self.world, gradients.size, gradients.dtype)

    def _check(self, loss, phase, iteration):
        if not math.isfinite(loss):
            saved = checkpoint.complete(self.folder, [p.name for p in self.recipe.phases])
            last = f"the last checkpoint is {saved[-1].model}" if saved else "there is no checkpoint"
            raise TrainingError(f"phase {phase.name}, iteration {iteration}: the loss is {loss}; {last}")

    def _advance(self, progress, phase, iteration, loss):
        """The phase's Progress with the loss of an iteration; says where that makes the rate drop. All ranks have the
        same loss, bit for bit, so they agree.
        """
        after = advance(progress, phase, iteration, loss)
        if phase.lr_policy == "plateau" and after.current_step > progress.current_step:
            self.log.say(f"phase {phase.name}, iteration {iteration}: the smoothed loss has not gone below "
                         f"{after.minimum_loss:.4f} since iteration {progress.iter_last_event}: lr "
                         f"{learning_rate(phase, iteration, after.current_step):.4g}")  # fmt: skip
        return after

    def _save(self, phase, iteration, progress):
        if self.world.rank == 0:
            arena, prefix = self.network.arena, phase.snapshot_prefix
            saved = checkpoint.save(self.folder, phase.name, iteration, arena, progress, prefix)
            self.log.say(f"saved {saved.model}")
        self.world.barrier()

    def _test_is_due(self, phase, done, stop):
        if done == 0:
            return phase.test_initialization
        return done >= stop or (phase.test_interval and done % phase.test_interval == 0)

    def _test(self, phase, iteration):
        if self.val_data is None:
            return
        transform = self.recipe.test_transform()
        records = self.recipe.test_records(phase)
        result = evaluate(self.network, self.val_data, transform, self.recipe, self.world, self.threads, records)
        self.log.test(iteration, result)


def start_weights(recipe, phase, folder, arena):
    """Load into the arena what `phase` starts from, and say what: the checkpoint of the phase before at the
    recipe's iteration or, where a shortened run never reached it, the newest one before.
    Raises InputError if there is none.
    """
    names = [p.name for p in recipe.phases]
    previous = recipe.phases[names.index(phase.name) - 1]
    before, wanted = previous.name, previous.max_iter if phase.starts_from is None else phase.starts_from
    usable = [c for c in checkpoint.complete(folder, names) if c.phase == before and c.iteration <= wanted]
    if not usable:
        raise InputError(f"{folder}: no checkpoint of phase {before} at iteration {wanted}, where phase "
                         f"{phase.name} starts; give --weights or run phase {before}")  # fmt: skip
    chosen = usable[-1]
    broken = checkpoint.damage(chosen)
    if broken:
        raise InputError(broken)
    checkpoint.load_weights(chosen.model, arena)
    note = "" if wanted == chosen.iteration else f" (the recipe says {wanted}, which this run did not reach)"
    return f"starts from the weights of phase {before} at iteration {chosen.iteration}{note}"


def newest(recipe, folder, say):
    """The newest checkpoint of a run whose files are whole, or None; damaged ones are said and passed over."""
    for candidate in reversed(checkpoint.complete(folder, [p.name for p in recipe.phases])):
        broken = checkpoint.damage(candidate)
        if broken is None:
            return candidate
        say(f"passing over a damaged checkpoint: {broken}")
    return None
