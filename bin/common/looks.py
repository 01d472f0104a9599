"""Looks at the folder of a run, whose file system may fail, or give no answer for a long time."""

import threading
import time
from contextlib import suppress

LIMIT = 30  # s for an answer
PERIOD = 0.1  # s between looks at a file's size


def look(at, otherwise, limit_s=None):
    """at(), or `otherwise` if it raises OSError, or takes longer than `limit_s` seconds (None: LIMIT)."""
    found = []

    def answer():
        with suppress(OSError):
            found.append(at())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(LIMIT if limit_s is None else limit_s)
    return found[0] if found else otherwise


class Growth:
    """Within the block, `since` is the time (of time.monotonic) at which the size of a file has changed last, as far as
    its file system answers.
    """

    def __init__(self, path):
        self.since, self._path, self._end = time.monotonic(), path, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        size = None
        while not self._end.wait(PERIOD):
            with suppress(OSError):
                found = self._path.stat().st_size
                if found != size:
                    size, self.since = found, time.monotonic()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(2 * PERIOD)
