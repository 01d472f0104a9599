"""The gradients of a step travel between ranks in buckets, while the backward pass goes on."""

import time

LEAST_COMMUNICATION_S = 1e-3  # a rank alone communicates for less: it has nothing to hide


class PendingAllreduce:
    """A sum over ranks that was started: `result()` waits for it, and raises what it raised.

    nbytes      as it travels
    queued_at   when it was handed over; started_at, ended_at: of the sum itself, on the reducer's thread; wanted_at,
                had_at: of the wait for it. All by `time.perf_counter`, None until then.
    """

    def __init__(self, nbytes, reducer, action, args):
        self.nbytes, self.started_at, self.ended_at, self.wanted_at, self.had_at = nbytes, None, None, None, None
        self.queued_at = time.perf_counter()
        self._future = reducer.start(self._travel, action, args)

    def _travel(self, action, args):
        self.started_at = time.perf_counter()
        try:
            return action(*args)
        finally:
            self.ended_at = time.perf_counter()

    def result(self):
        self.wanted_at = time.perf_counter()
        result = self._future.result()
        self.had_at = time.perf_counter()
        return result

    def times(self, origin):
        """[bytes, queued, started, ended, wanted, had], in seconds since `origin`."""
        moments = (self.queued_at, self.started_at, self.ended_at, self.wanted_at, self.had_at)
        return [self.nbytes, *(moment - origin for moment in moments)]


class Buckets:
    """Sums the gradients of one step over all ranks, in parts that become final from their end on.

    sums          `gradient_sum.GradientSum`
    reducer       `nptrain.world.Reducer`
    bucket_bytes  a bucket leaves when it has so many: small ones cost latency, large ones hide little
    pending       every `PendingAllreduce` of the step, in order; of them, `buckets` are (slice, PendingAllreduce)
    """

    def __init__(self, sums, reducer, bucket_bytes):
        self.sums, self.reducer = sums, reducer
        self.least = max(1, bucket_bytes // sums.sums.itemsize)
        self.end, self.pending, self.buckets = sums.sums.size, [], []

    def start(self, nbytes, action, *args):
        """Begin action(*args), a sum of `nbytes` bytes. Returns its `PendingAllreduce`."""
        self.pending.append(PendingAllreduce(nbytes, self.reducer, action, args))
        return self.pending[-1]

    def mark_ready(self, offset, worker=None):
        """All gradients from `offset` on are final, those of `worker`, the rank's last one (None: the rank has none).
        What is enough for a bucket is added to the rank's sums, and sent. All ranks call this with the same offsets,
        falling to 0.
        """
        if self.end - offset >= self.least or offset == 0:
            part = slice(offset, self.end)
            if worker is not None:
                self.sums.add(worker, part)
            self.buckets.append((part, self.start(self.sums.wire_bytes(part), self.sums.total, part)))
            self.end = offset

    def wait_into_gradients(self):
        """The buckets, as slices, in the order in which they were sent; each when its total is in the gradients."""
        for part, pending in self.buckets:
            pending.result()
            self.sums.deliver(part)
            yield part

    def wait(self):
        """Wait for all that travels, before an error that all ranks have: a rank that ended now would leave the threads
        of others in a sum for ever.
        """
        for pending in self.pending:
            pending.result()

    @property
    def busy_s(self):
        """Seconds in which anything travelled: two sums may at once."""
        seconds, until = 0.0, 0.0
        for pending in sorted(self.pending, key=lambda pending: pending.started_at):
            seconds += max(0.0, pending.ended_at - max(pending.started_at, until))
            until = max(until, pending.ended_at)
        return seconds

    @property
    def waited_s(self):
        """Seconds for which sums were waited for, that of the loss among them."""
        return sum(pending.had_at - pending.wanted_at for pending in self.pending)


class StepTimer:
    """Where the time of a step goes on this rank."""

    def __init__(self):
        self.began = self.last = time.perf_counter()
        self.seconds, self.spans = {}, []

    def mark(self, name):
        """What passed since the mark before was `name`: data, forward, backward or update."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.spans.append([name, now - self.began])
        self.last = now

    @property
    def total_s(self):
        """Seconds of the whole step so far."""
        return time.perf_counter() - self.began

    def result(self, buckets):
        """{name_s: seconds} of all marks, and of the step's Buckets: `hidden`, the share of the time of communication
        that was not waited for; `spans`, [name, end] of what was marked; `sums`, [bytes, queued, started, ended,
        wanted, had] of what travelled; both in order and in seconds since the step began.
        """
        busy, waited = buckets.busy_s, buckets.waited_s
        spent = {f"{name}_s": seconds for name, seconds in self.seconds.items()}
        spent["update_s"] -= waited
        hidden = max(0.0, 1 - waited / busy) if busy > LEAST_COMMUNICATION_S else 1.0
        sums = [pending.times(self.began) for pending in buckets.pending]
        return {**spent, "gradient_wait_s": waited, "communication_s": busy, "hidden": hidden,
                "spans": self.spans, "sums": sums}  # fmt: skip
