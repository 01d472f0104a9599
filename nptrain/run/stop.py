"""Ending a run before its end: signals and a time limit become a wish, which the training loop asks for."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: a batch system may start the same job again
STATUS = {signal.SIGINT: 130, signal.SIGTERM: TRY_AGAIN, signal.SIGUSR1: TRY_AGAIN}
TWICE = 0.2  # s within which a second SIGINT is the first one again, as timeout(1) sends it


class Stopped(Exception):
    """A signal ended the run before its first iteration, when there is nothing to save. `line` is None on ranks other
    than 0.
    """

    def __init__(self, line, exit_status):
        super().__init__(line)
        self.line, self.exit_status = line, exit_status


class Stop:
    """Whether this rank wants the run to end, and why: `cause` is (exit status, reason), or None.

    limit_s  seconds from now after which it wants that (None: never)
    rank     rank 0 answers a signal by a line on stderr

    A second SIGINT raises KeyboardInterrupt. Before `wanted` is asked for the first time, every signal ends the run at
    once: by KeyboardInterrupt, or Stopped.
    """

    def __init__(self, limit_s=None, rank=0):
        self.cause, self._caught, self._rank, self._asked = None, 0.0, rank, False
        self._deadline = None if limit_s is None else time.monotonic() + limit_s

    @contextmanager
    def catching(self):
        """Within the block, signals are caught; in the main thread only, which alone gets them."""
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._catch) for number in STATUS if main}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def wanted(self):
        """Whether the run shall end after the running iteration."""
        self._asked = True
        if self.cause is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.cause = TRY_AGAIN, "--time-limit"
        return self.cause is not None

    def _catch(self, number, _):
        name, interrupted = signal.Signals(number).name, self.cause is not None and self.cause[1] == "SIGINT"
        if number == signal.SIGINT and interrupted and time.monotonic() - self._caught < TWICE:
            return
        if number == signal.SIGINT and (interrupted or not self._asked):
            raise KeyboardInterrupt
        if not self._asked:
            raise Stopped(None if self._rank else f"{name} before the first iteration", STATUS[number])
        if self.cause is None or number == signal.SIGINT:
            self.cause, self._caught = (STATUS[number], name), time.monotonic()
            if self._rank == 0:  # no print(): the signal may have come within one
                at_once = "; a second one ends it at once" if number == signal.SIGINT else ""
                os.write(sys.__stderr__.fileno(), f"{name}: the run ends after this iteration{at_once}\n".encode())
