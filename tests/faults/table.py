"""The table of faults as text: a line for each, at most 110 columns."""

from statistics import median

HEAD = f"{'fault':<56} {'injected':>8} {'survived':>8} {'lost':>5} {'seconds':>9}  how"
WAYS = ("goes on", "starts again", "ends", "--resume")


def row(fault, outcome):
    """A line of the table."""
    name = fault.name if len(fault.name) <= 56 else f"{fault.name[:53]}..."
    if outcome.not_permitted:
        return f"{name:<56} not permitted here: {outcome.not_permitted}"[:110]
    lost = spread(outcome.lost, "d") if outcome.lost else "0"
    seconds = f"{median(outcome.seconds):.1f}" if outcome.seconds else "-"
    if len(outcome.seconds) > 1:
        seconds = f"{min(outcome.seconds):.1f}-{max(outcome.seconds):.1f}"
    how = ", ".join(way for way in WAYS if way in outcome.ways) if outcome.survived == outcome.injected else "FAILED"
    return f"{name:<56} {outcome.injected:>8} {outcome.survived:>8} {lost:>5} {seconds:>9}  {how}"


def spread(values, form):
    """One number, or the smallest and the largest."""
    low, high = min(values), max(values)
    return f"{low:{form}}" if low == high else f"{low:{form}}-{high:{form}}"
