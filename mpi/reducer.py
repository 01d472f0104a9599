"""Sums over ranks that travel while the kernels compute."""

import time
from concurrent.futures import ThreadPoolExecutor

# what its thread calls first: a command that pins threads puts it on a core for communication, if there is one
begin_thread = None


class Reducer:
    """Does what it is handed on a thread of its own, in that order: the same order on all ranks, or they wait for
    each other for ever. Until every result is taken, no other thread may talk to MPI.

    seconds    that the thread has spent in all
    """

    def __init__(self):
        self.seconds = 0.0
        self._thread = ThreadPoolExecutor(1, "reducer", begin_thread)

    def start(self, action, *args):
        """Begin action(*args), when what was begun before is done. Returns a future: `result()` waits, and raises what
        the action raised.
        """
        return self._thread.submit(self._timed, action, args)

    def _timed(self, action, args):
        begin = time.perf_counter()
        try:
            return action(*args)
        finally:
            self.seconds += time.perf_counter() - begin

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # after an error the thread may wait for ranks that are gone; the process ends without it
        self._thread.shutdown(wait=error[0] is None, cancel_futures=True)
