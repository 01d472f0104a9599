"""One iteration of a run, from its metrics.jsonl: what rank 0 computed, and what it sent meanwhile."""

from dataclasses import dataclass, replace

from nptrain.errors import InputError
from nptrain.run import metrics

MS = 1e3


@dataclass(frozen=True)
class Timeline:
    """An iteration. Times are in ms since it began.

    spans   [(name, begin, end)] of data, forward, backward, update, and waiting for a sum; one after another
    sums    [(label, ready, begin, end)] of what was sent, in order: the loss, then the buckets of gradients
    hidden  the share of communication during which the rank did not wait for gradients; None on one rank
    """

    phase: str
    iteration: int
    spans: list
    sums: list
    hidden: float | None

    @property
    def duration(self):
        return self.spans[-1][2]

    @property
    def title(self):
        hidden = "" if self.hidden is None else f", {self.hidden:.1%} of communication hidden"
        return f"phase {self.phase}, iteration {self.iteration}: {self.duration:.1f} ms{hidden}"

    def alone(self):
        """The same for a run on one rank, which sends nothing."""
        return replace(self, sums=[], hidden=None)

    def spent(self):
        """{name: total ms} of each kind of span."""
        totals = {}
        for name, begin, end in self.spans:
            totals[name] = totals.get(name, 0) + end - begin
        return totals


def read(path, phase=None, iteration=None):
    """The Timelines in a metrics.jsonl: of all iterations, or of one phase or iteration. Raises InputError for a file
    that is missing or damaged, or has no such iteration.
    """
    timelines = [timeline for timeline in metrics.read(path, _timeline) if timeline]
    names = list(dict.fromkeys(timeline.phase for timeline in timelines))
    if phase is not None and phase not in names:
        raise InputError(f"--phase: found {phase!r}, expected one of {', '.join(names)}")
    timelines = [timeline for timeline in timelines if phase in (None, timeline.phase)]
    if iteration is None:
        return timelines
    last = max(timeline.iteration for timeline in timelines)
    timelines = [timeline for timeline in timelines if timeline.iteration == iteration]
    if not timelines:
        raise InputError(f"--iteration: found {iteration}, expected one of the run's, up to {last}")
    return timelines


def median(timelines):
    """The Timeline of median duration; of an even number, the shorter of the two in the middle."""
    return sorted(timelines, key=lambda timeline: timeline.duration)[(len(timelines) - 1) // 2]


def _timeline(entry):
    """The Timeline of an iteration's entry; None for a test's. Raises the exceptions that `metrics.read` expects."""
    if "loss" not in entry:
        return None
    sums = [[size, *(at * MS for at in times)] for size, *times in entry["sums"]]
    labels = ["loss", *(f"{size / 1e6:.2f} MB" for size, *_ in sums[1:])]
    spans = list(_spans([(str(name), end * MS) for name, end in entry["spans"]], [times[-2:] for times in sums]))
    shown = [(label, ready, begin, end) for label, (_, ready, begin, end, _, _) in zip(labels, sums, strict=True)]
    if not spans[-1][2] > 0:
        raise ValueError("no time has passed")
    return Timeline(str(entry["phase"]), int(entry["iteration"]), spans, shown, float(entry["hidden"]))


def _spans(marks, waits):
    """The spans between `marks`, split where the rank waited."""
    begin = 0.0
    for name, end in marks:
        for wait_begin, wait_end in waits:
            if begin <= wait_begin < wait_end <= end:
                yield from [(name, begin, wait_begin)] * (begin < wait_begin)
                yield "waiting", wait_begin, wait_end
                begin = wait_end
        if begin < end:
            yield name, begin, end
        begin = end
