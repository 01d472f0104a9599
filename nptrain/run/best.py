"""The tests of a run so far: which is the best, and for how many tests nothing has been better."""

from math import inf, isfinite
from typing import NamedTuple

from nptrain.run.metrics import read_entries


class Test(NamedTuple):
    """A test after `iteration` updates of a phase. `top1` is from 0 to 1, or -inf if the test has no result."""

    phase: str
    iteration: int
    top1: float

    @classmethod
    def of(cls, phase, iteration, result):
        """From the result of `evaluate`."""
        return cls(phase, iteration, result["top1"] if isfinite(result["loss"]) else -inf)


Test.__test__ = False  # not a test of pytest


def read_tests(path):
    """The Tests in a metrics.jsonl, in order."""
    tests = [entry for entry in read_entries(path) if "top1" in entry]
    return [Test(e["phase"], e["iteration"], -inf if e["top1"] is None else e["top1"]) for e in tests]


def best_of(tests):
    """The first Test with the highest top-1, or None if none has a result."""
    found = max(tests, key=lambda test: test.top1, default=None)  # max() takes the first of equals
    return found if found and found.top1 > -inf else None


def without_improvement(tests, phase):
    """How many tests of a phase have come since its best one."""
    own = [test.top1 for test in tests if test.phase == phase]
    return len(own) - 1 - own.index(max(own)) if own else 0
