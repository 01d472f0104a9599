"""The gradients' way over all ranks and home, in buckets, while the backward pass goes on."""

import time

NOTHING = 1e-3  # s of communication: a rank alone has nothing to hide


class Exchange:
    """Sums a flat array of gradients over all ranks, in pieces that become final from its end on.

    sums          the flat array; what its tail holds besides gradients goes with the first bucket
    start         start(action, part) begins action(part), the sum of a slice over ranks, and returns a future
    bucket_bytes  a bucket is sent when it has so many: few are latency, many hide little
    """

    def __init__(self, sums, start, action, bucket_bytes):
        self.sums, self.start, self.action = sums, start, action
        self.least = max(1, bucket_bytes // sums.itemsize)
        self.end, self.sent, self.waited = sums.size, [], 0.0

    def ready(self, offset, complete=lambda part: None):
        """All from `offset` on is final on this rank once complete(part) was called for a part that is sent. All ranks
        call this with the same offsets, falling to 0.
        """
        if self.end - offset >= self.least or offset == 0:
            part = slice(offset, self.end)
            complete(part)
            self.sent.append((part, self.start(self.action, part)))
            self.end = offset

    def arrived(self):
        """The buckets, as slices, in the order in which they were sent; each when its sum is home."""
        for part, future in self.sent:
            begin = time.perf_counter()
            future.result()
            self.waited += time.perf_counter() - begin
            yield part


class Times:
    """Where the time of an iteration goes on this rank, in seconds by name."""

    def __init__(self, reducer):
        self.reducer, self.busy_before = reducer, reducer.seconds
        self.began = self.last = time.perf_counter()
        self.spent = {}

    def mark(self, name):
        """What passed since the mark before was `name`."""
        now = time.perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - self.last
        self.last = now

    @property
    def total(self):
        """Seconds of the whole iteration so far."""
        return time.perf_counter() - self.began

    def result(self, waited):
        """All of them, with `waited` for sums that were not home in time: the share of the time of communication that
        was hidden is what was not waited for.
        """
        busy = self.reducer.seconds - self.busy_before
        spent = dict(self.spent)
        spent["update_s"] -= waited
        hidden = max(0.0, 1 - waited / busy) if busy > NOTHING else 1.0
        return {**spent, "gradient_wait_s": waited, "communication_s": busy, "hidden": hidden}
