"""A run goes on without ranks that have died: those that are left agree where it goes on, and share the state there.

All ranks hold the same state after an iteration. A death may find some of them one iteration ahead of the others: then
these take the state of one that is ahead. Logical workers are divided anew; the iteration that ran is repeated.
"""

import time
from dataclasses import dataclass

from nptrain.errors import RanksLost
from nptrain.recipes.schedule import Progress
from nptrain.run.best import best_of
from nptrain.run.checkpoint import Checkpoint
from nptrain.step import worker_range

START = Progress()


@dataclass(frozen=True)
class Position:
    """Where a run is: after `iteration` updates of a phase, with the phase's Progress. Before a phase has begun, the
    weights are not its own yet: it loads them.
    """

    phase: str
    iteration: int = 0
    progress: Progress = START
    begun: bool = True

    @classmethod
    def first(cls, phases, resumed=None):
        """Where a run of phases begins, given as their names; it may go on from a Checkpoint."""
        if not resumed:
            return cls(phases[0])
        return cls(resumed.phase, resumed.iteration, resumed.progress or Progress())


def recover(trainer, error):
    """After one of the `failures` of a Trainer's world, go on with the ranks that are left. Returns when all of them
    have the same position, tests and state. Raises RanksLost if they must not go on, or cannot.
    """
    world, before, began, lost = trainer.world, trainer.world.size, time.monotonic(), []
    behind = world.rank != 0  # what rank 0 has logged may not be all that there is to log
    while True:
        try:
            size, gone = world.size, world.recover()
            lost += gone
            expect_majority(trainer.recipe.workers, size, gone)
            behind = share_state(trainer) or behind
            trainer.watchdog.ranks_have_changed()
            break
        except world.failures:  # another one, meanwhile
            continue
    if not lost:
        if trainer.at == trainer.failed_at:
            raise RanksLost(f"{_place(trainer.at)}: MPI has failed twice, but no rank has died: {error}")
        trainer.failed_at = trainer.at
    trainer.stopped = False
    trainer.snapshots.take_over()
    if world.rank == 0 and behind:
        _take_over(trainer)
    milliseconds = (time.monotonic() - began) * 1e3
    trainer.log.say(f"{who_died(lost)}: {world.size} of {before} ranks go on at {_place(trainer.at)}, after "
                    f"{milliseconds:.0f} ms")  # fmt: skip
    if trainer.options.compress:
        trainer.log.say("--compress bf16: what rounding had left over is lost: other bits from here on")


def _take_over(trainer):
    """On the new rank 0: continue the log, and log what may not have been logged."""
    at, best = trainer.at, best_of(trainer.tests)
    if trainer.take_over:
        trainer.log.close()
        place = Checkpoint(trainer.folder, at.phase, at.iteration)
        tested = any(test[:2] == (at.phase, at.iteration) for test in trainer.tests)
        trainer.log = trainer.saver.log = trainer.take_over(place, tested, trainer.snapshots.lines)
    if best:
        trainer.log_best(best)


def _place(at):
    return f"phase {at.phase}, iteration {at.iteration}"


def share_state(trainer):
    """Give position, tests, last metrics and arrays of a rank that is ahead to those that are behind. Returns whether
    this rank was. Raises RanksLost if no rank has a whole state. All ranks call it.
    """
    world = trainer.world
    order = [phase.name for phase in trainer.recipe.phases]
    trainer.before_update()
    at = trainer.at
    found = world.allgather(at and (order.index(at.phase), at.iteration, at.begun, len(trainer.tests)))
    newest = max(filter(None, found), default=None)
    if newest is None:
        raise RanksLost("no rank that is left has a whole state: start again with --resume")
    owner, behind = found.index(newest), [place is None or place < newest for place in found]
    mine = (at, trainer.tests, trainer.snapshots.lines) if world.rank == owner else None
    at, tests, lines = world.allgather(mine)[owner]
    if at.begun and any(place is None or place[:3] < newest[:3] for place in found):
        trainer.at = at if world.rank == owner else None
        share_arrays(trainer.network.arena, world, owner)
    trainer.at, trainer.tests[:], trainer.snapshots.lines = at, tests, lines
    return behind[world.rank]


def share_arrays(arena, world, owner=0):
    """Copy weights, statistics and momentum of the rank `owner` to all ranks."""
    for array in (arena.weights, arena.statistics, arena.factors, arena.history):
        world.bcast_array(array, owner)


def expect_majority(workers, size, lost):
    """Raise RanksLost if those of the Lost that may live have most of the workers of `size` ranks, or half of them and
    the lowest rank: where a network is cut in two, only one part may go on.
    """
    elsewhere = [each.place for each in lost if not each.dead]
    if not elsewhere:
        return
    here = [rank for rank in range(size) if rank not in {each.place for each in lost}]
    ours, theirs = (sum(len(worker_range(workers, rank, size)) for rank in ranks) for ranks in (here, elsewhere))
    if ours < theirs or (ours == theirs and elsewhere[0] < here[0]):
        raise RanksLost(f"{who_died(lost)}: they have {theirs} workers, and those that are left {ours}: the others may "
                        "go on; start again with --resume")  # fmt: skip


def who_died(lost):
    """A text: the ranks that are lost, by their numbers at the start, with host and process; of many, the first."""
    if not lost:
        return "communication failed"
    names = [f"rank {each.rank} on {each.host} (process {each.process})" for each in lost]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    happened = "died" if all(each.dead for each in lost) else "died or cannot be reached"
    return f"{', '.join(names[:4])}{more} {happened}"
