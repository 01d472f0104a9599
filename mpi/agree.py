"""Checks that all ranks make together, so that a mistake ends all of them with one line."""

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
    if world.rank:
        raise SystemExit(mistake.exit_status)
    rank, host, line = failed[0]
    everywhere = len(failed) == world.size and len({report[2] for report in failed}) == 1
    shared = mistake(line if everywhere or world.size == 1 else f"rank {rank} on {host}: {line}")
    shared.all_know = True  # no rank is left waiting: all end by themselves
    raise shared
