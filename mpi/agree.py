"""Checks that all ranks make together, so that a mistake ends all of them with one line."""

import hashlib
from contextlib import contextmanager


@contextmanager
def together(world, mistake):
    """Run a block on every rank; if it raised `mistake` (an exception class) on any, all ranks raise it after the
    block: rank 0 with the first failing rank's line, and which rank and host if not all failed; others silently
    (SystemExit with the same status). The block must not talk to other ranks.
    """
    error = None
    try:
        yield
    except mistake as caught:
        error = caught
    reports = world.gather(None if error is None else (world.rank, world.host, str(error)))
    failed = [report for report in reports if report]
    if not failed:
        return
    rank, host, line = failed[0]
    everywhere = len(failed) == world.size and len({report[2] for report in failed}) == 1
    _end(world, mistake, line if everywhere or world.size == 1 else f"rank {rank} on {host}: {line}")


def same(world, facts, mistake):
    """Raise `mistake` on all ranks, as `together` does, unless all have the same facts as rank 0, a dictionary of
    texts or numbers: with the first rank that differs, its host, and the first fact in which it does. All ranks call
    it.
    """
    digests = world.gather(hashlib.sha256(repr(sorted(facts.items())).encode()).digest())
    other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
    if other is None:
        return  # as ever: the facts themselves need not travel
    host, found = world.gather((world.host, facts))[other]
    expected = world.share(facts)
    name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
    this, that = (of.get(name, "missing") for of in (found, expected))
    _end(world, mistake, f"rank {other} on {host}: {name} is {this}, rank 0 has {that}")


def _end(world, mistake, line):
    """Rank 0 raises the mistake, the others SystemExit."""
    if world.rank:
        raise SystemExit(mistake.exit_status)
    shared = mistake(line)
    shared.all_know = True  # no rank is left waiting: all end by themselves
    raise shared
