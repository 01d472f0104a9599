"""Sums over ranks that travel while the kernels compute."""

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

# what its threads call first: a command that pins threads puts them on the cores for communication, if there are any
begin_thread = None


class Reducer:
    """Does what it is handed on threads of its own, which take turns: each in the order in which it was handed to it.
    The same order on all ranks, or they wait for each other for ever. Until every result is taken, no other thread may
    talk to MPI.

    begin   for each thread a function that it calls first, or None
    """

    def __init__(self, begin=(None,)):
        self._threads = [ThreadPoolExecutor(1, "reducer", _call, (begin_thread, first)) for first in begin]
        self._turn = cycle(self._threads)

    def start(self, action, *args):
        """Begin action(*args), when what that thread began before is done. Returns a future: `result()` waits, and
        raises what the action raised.
        """
        return next(self._turn).submit(action, *args)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # after an error a thread may wait for ranks that are gone; the process ends without it
        for thread in self._threads:
            thread.shutdown(wait=error[0] is None, cancel_futures=True)


def _call(*functions):
    for function in functions:
        if function:
            function()
