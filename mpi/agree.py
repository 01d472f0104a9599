"""Checks that all ranks make together, so that a mistake ends all of them with one line."""

import hashlib
from contextlib import contextmanager


class AgreedError(Exception):
    """An error that every rank raises at the same place: none is left waiting for another. `line` says what is wrong,
    on rank 0 only; elsewhere it is None.
    """

    def __init__(self, line, exit_status):
        super().__init__(line)
        self.line, self.exit_status = line, exit_status


@contextmanager
def raise_together(world, error_type):
    """Run a block on every rank; if it raised an `error_type` (which has an `exit_status`) on any, all ranks raise
    AgreedError after the block, with the first failing rank's line, and which rank and host if not all failed with the
    same. The block must not talk to other ranks.
    """
    error = None
    try:
        yield
    except error_type as caught:
        error = caught
    reports = world.allgather(None if error is None else (world.rank, world.host, str(error)))
    failed = [report for report in reports if report]
    if not failed:
        return
    rank, host, line = failed[0]
    everywhere = len(failed) == world.size and len({report[2] for report in failed}) == 1
    line = line if everywhere or world.size == 1 else f"rank {rank} on {host}: {line}"
    raise AgreedError(None if world.rank else line, error_type.exit_status) from error


def expect_same(world, facts, error_type):
    """Raise AgreedError on all ranks unless all have the same `facts` as rank 0, a dictionary of texts or numbers: with
    the first rank that differs, its host, and the first fact in which it does. All ranks call it.
    """
    digests = world.allgather(hashlib.sha256(repr(sorted(facts.items())).encode()).digest())
    other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
    if other is None:
        return  # the usual case: the facts themselves need not travel
    host, found = world.allgather((world.host, facts))[other]
    expected = world.bcast(facts)
    name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
    found_value, expected_value = (values.get(name, "missing") for values in (found, expected))
    line = f"rank {other} on {host}: {name} is {found_value}, rank 0 has {expected_value}"
    raise AgreedError(None if world.rank else line, error_type.exit_status)
