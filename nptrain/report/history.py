"""The history of a run, from its metrics.jsonl: each phase on an axis of updates, or of epochs."""

from dataclasses import dataclass

import numpy as np

from nptrain.errors import InputError
from nptrain.run import metrics
from nptrain.run.run_folder import RunFolder, recipe_of

ITERATION = ("loss", "lr", "images_per_s")  # numbers of an iteration's entry
TEST = ("test_loss", "top1", "top5")
SLOW = ("phase", "host", "rank", "iterations", "s for a worker", "median of all ranks", "of which")


@dataclass(frozen=True)
class PhaseHistory:
    """A phase. Rows are float64; a number that an entry has not is NaN.

    iterations    (n, 4): updates done in the phase, then ITERATION
    tests         (n, 4): updates done in the phase, then TEST
    begin         updates before the phase: those that made the weights that it started from
    epoch, epochs epochs before the phase, and of one update; None if they are not known
    """

    name: str
    iterations: np.ndarray
    tests: np.ndarray
    begin: int
    epoch: float | None = None
    epochs: float | None = None

    def x(self, rows, in_epochs):
        """Where rows lie on the axis."""
        return self.epoch + self.epochs * rows[:, 0] if in_epochs else self.begin + rows[:, 0]

    @property
    def done(self):
        """Updates done in the phase."""
        return int(self.iterations[-1, 0]) if len(self.iterations) else 0


def read(folder, records=None):
    """The PhaseHistory of each phase of a run, in order.

    A phase begins where the iteration of the phase before lies whose weights it started from, by the recipe in
    run.json; without that, at its end. `records` is the number of training images, for epochs. Raises InputError for a
    metrics.jsonl that is missing or damaged, or has no iteration.
    """
    recipe, phases = recipe_of(folder), []
    entries = metrics.read(RunFolder(folder).metrics, _numbers)
    for name in dict.fromkeys(phase for phase, _, _ in entries):
        rows = [(np.array([row for phase, kind, row in entries if (phase, kind) == (name, of)]).reshape(-1, 4))
                for of in (ITERATION, TEST)]  # fmt: skip
        wanted, epochs = _of_recipe(recipe, name, records)
        begin, epoch = 0, 0.0
        if phases:
            before = phases[-1]
            start = before.done if wanted is None else min(wanted, before.done)
            begin = before.begin + start
            epochs = None if before.epochs is None else epochs
            epoch = None if before.epochs is None else before.epoch + before.epochs * start
        epoch = None if epochs is None else epoch
        phases.append(PhaseHistory(name, *rows, begin, epoch, epochs))
    return phases


def _of_recipe(recipe, name, records):
    """(the iteration of the phase before that a phase starts from, epochs of an update); None for what is not known."""
    if recipe is None or name not in [phase.name for phase in recipe.phases]:
        return None, None
    phase = recipe.phase(name)
    return phase.starts_from, recipe.images_of(phase) / records if records else None


def _numbers(entry):
    """(phase, ITERATION or TEST, updates done and the numbers of an entry); null is NaN: there was no result."""
    phase, updates, kind = str(entry["phase"]), int(entry["iteration"]), ITERATION if "loss" in entry else TEST
    if kind == TEST and "top1" not in entry:
        raise KeyError("top1")
    values = [np.nan if entry.get(name) is None else float(entry[name]) for name in kind]
    return phase, kind, [updates + (kind == ITERATION), *values]


def slow_ranks(folder):
    """Rows of texts for the ranks that were slow, in a table under SLOW: from the field `slow` of metrics.jsonl. Raises
    InputError for a metrics.jsonl that is missing or damaged.
    """
    return [row for rows in metrics.read(RunFolder(folder).metrics, _slow) for row in rows]


def _slow(entry):
    rows = []
    for each in entry.get("slow", ()):
        if isinstance(each, str):  # a version before this one wrote lines
            rows.append((entry["phase"], each, *("" for _ in SLOW[2:])))
            continue
        first, last = each["iterations"]
        parts = ", ".join(f"{name} {float(part):.3f}" for name, part in each["parts_s"].items())
        seconds = (f"{float(each[name]):.3f}" for name in ("worker_s", "median_s"))
        rows.append((entry["phase"], each["host"], each["rank"], f"{first} to {last}", *seconds, parts))
    return rows


def best_test(phases):
    """(PhaseHistory, its row) of the test with the highest top-1, the later one of equals; None without a test."""
    tests = [(phase, row) for phase in phases for row in phase.tests if not np.isnan(row[2])]
    return max(reversed(tests), key=lambda test: test[1][2], default=None)


def expect_epochs(label, phases):
    """Raise InputError if the epochs of a run are not known."""
    if any(phase.epochs is None for phase in phases):
        raise InputError(f"--epochs: {label}: its run.json or its training data cannot be read: leave the flag out")
