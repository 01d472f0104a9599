"""The gradients' way over all ranks and home, in buckets, while the backward pass goes on."""

import time

import numpy as np

NOTHING = 1e-3  # s of communication: a rank alone has nothing to hide


def room_for_sums(gradients, terms):
    """Where so many `terms` are added up, of flat arrays like `gradients`: there, or in an array of its own in float64.

    A sum of three float32 depends on their order, which is that of the ranks, and training amplifies the difference a
    hundredfold in every iteration: in float64 the order is lost in rounding to float32.
    """
    return gradients if terms <= 2 else np.zeros(gradients.size)


class Sum:
    """A sum over ranks on its way: `result()` waits for it, and raises what it raised.

    size   in bytes
    ready  when it was handed over; begin, end: of the sum itself, on the reducer's thread; asked, home: of the wait
           for it. All by `time.perf_counter`, None until then.
    """

    def __init__(self, size, start, action, args):
        self.size, self.begin, self.end, self.asked, self.home = size, None, None, None, None
        self.ready = time.perf_counter()
        self._future = start(self._travel, action, args)

    def _travel(self, action, args):
        self.begin = time.perf_counter()
        try:
            return action(*args)
        finally:
            self.end = time.perf_counter()

    def result(self):
        self.asked = time.perf_counter()
        result = self._future.result()
        self.home = time.perf_counter()
        return result


class Exchange:
    """Sums a flat array of gradients over all ranks, in pieces that become final from its end on.

    sums          the flat array; what its tail holds besides gradients goes with the first bucket
    start         start(action, ...) begins action(...), and returns a future
    action        action(part) sums a slice over ranks
    bucket_bytes  a bucket is sent when it has so many: few are latency, many hide little
    wire_bytes    of a value on its way, which may be fewer than it has here
    sent          every `Sum`, in order; of them, `buckets` are (slice, Sum) of gradients
    """

    def __init__(self, sums, start, action, bucket_bytes, wire_bytes=None):
        self.sums, self.start, self.action = sums, start, action
        self.least = max(1, bucket_bytes // sums.itemsize)
        self.wire_bytes = wire_bytes or sums.itemsize
        self.end, self.sent, self.buckets = sums.size, [], []

    def send(self, size, action, *args):
        """Begin action(*args), a sum of `size` bytes. Returns its `Sum`."""
        self.sent.append(Sum(size, self.start, action, args))
        return self.sent[-1]

    def ready(self, offset, complete=lambda part: None):
        """All from `offset` on is final on this rank once complete(part) was called for a part that is sent. All ranks
        call this with the same offsets, falling to 0.
        """
        if self.end - offset >= self.least or offset == 0:
            part = slice(offset, self.end)
            complete(part)
            self.buckets.append((part, self.send(self.wire_bytes * (part.stop - part.start), self.action, part)))
            self.end = offset

    def arrived(self):
        """The buckets, as slices, in the order in which they were sent; each when its sum is home."""
        for part, travelling in self.buckets:
            travelling.result()
            yield part

    def home(self, gradients):
        """As `arrived`, with each bucket's sums put into `gradients`, where they are not there already."""
        for part in self.arrived():
            if self.sums is not gradients:
                gradients[part] = self.sums[part]
            yield part

    @property
    def travelled(self):
        """Seconds in which anything was on its way: two sums may be at once."""
        seconds, until = 0.0, 0.0
        for of in sorted(self.sent, key=lambda of: of.begin):
            seconds += max(0.0, of.end - max(of.begin, until))
            until = max(until, of.end)
        return seconds

    @property
    def waited(self):
        """Seconds for which gradients were waited for."""
        return sum(of.home - of.asked for _, of in self.buckets)


class Times:
    """Where the time of an iteration goes on this rank, in seconds by name."""

    def __init__(self):
        self.began = self.last = time.perf_counter()
        self.spent, self.spans = {}, []

    def mark(self, name):
        """What passed since the mark before was `name`."""
        now = time.perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - self.last
        self.spans.append([name.removesuffix("_s"), now - self.began])
        self.last = now

    @property
    def total(self):
        """Seconds of the whole iteration so far."""
        return time.perf_counter() - self.began

    def result(self, exchange):
        """All of them, with those of an Exchange: the share of the time of communication that was hidden is what was
        not waited for. `spans` are [name, end] of what was marked, `sums` [bytes, ready, begin, end, asked, home] of
        what travelled, both in order and in seconds since the iteration began.
        """
        busy, waited = exchange.travelled, exchange.waited
        spent = dict(self.spent)
        spent["update_s"] -= waited
        hidden = max(0.0, 1 - waited / busy) if busy > NOTHING else 1.0
        sums = [[of.size, *(at - self.began for at in (of.ready, of.begin, of.end, of.asked, of.home))]
                for of in exchange.sent]  # fmt: skip
        return {**spent, "gradient_wait_s": waited, "communication_s": busy, "hidden": hidden,
                "spans": self.spans, "sums": sums}  # fmt: skip
