"""Checks that all ranks make together, so that a mistake ends all of them with one line."""

import hashlib
from contextlib import contextmanager


class AgreedError(Exception):
    """An error that all ranks raise at the same point, so that none waits for another. `line` is the message on rank 0,
    None on the others.
    """

    def __init__(self, line, exit_status):
        super().__init__(line)
        self.line, self.exit_status = line, exit_status


@contextmanager
def raise_together(world, error_type):
    """Run a block on every rank. If it raises an `error_type` (which has an `exit_status`) on any, all ranks raise
    AgreedError after the block, with message and status of the first rank that failed; its number and host are named
    unless all failed with the same message. The block must not communicate.
    """
    error = None
    try:
        yield
    except error_type as caught:
        error = caught
    reports = world.allgather(None if error is None else (world.rank, world.host, str(error), error.exit_status))
    failed = [report for report in reports if report]
    if not failed:
        return
    rank, host, line, status = failed[0]
    everywhere = len(failed) == world.size and len({report[2] for report in failed}) == 1
    line = line if everywhere or world.size == 1 else f"rank {rank} on {host}: {line}"
    raise AgreedError(None if world.rank else line, status) from error


def expect_same(world, facts, error_type):
    """Raise AgreedError on all ranks unless all have the same `facts`, a dictionary of texts or numbers. The message
    names the first rank that differs from rank 0, its host, and the first fact that differs. All ranks call it.
    """
    digests = world.allgather(hashlib.sha256(repr(sorted(facts.items())).encode()).digest())
    other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
    if other is None:
        return  # the usual case: only digests are sent
    host, found = world.allgather((world.host, facts))[other]
    expected = world.bcast(facts)
    name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
    found_value, expected_value = (values.get(name, "missing") for values in (found, expected))
    line = f"rank {other} on {host}: {name} is {found_value}, rank 0 has {expected_value}"
    raise AgreedError(None if world.rank else line, error_type.exit_status)
