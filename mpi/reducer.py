"""Threads that sum over ranks while the kernels compute."""

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle


class Reducer:
    """Runs actions on threads of its own, which take turns; each thread runs its actions in order. All ranks must start
    the same actions in the same order, or they wait for each other for ever. No other thread may call MPI until the
    results of all actions are taken.

    initializers  for each thread, the functions that it calls first
    """

    def __init__(self, initializers=((),)):
        self._threads = [ThreadPoolExecutor(1, "reducer", _call, tuple(functions)) for functions in initializers]
        self._turn = cycle(self._threads)

    def start(self, action, *args):
        """Run action(*args) when the thread has finished its earlier actions. Returns a Future, whose `result()` waits,
        and raises what the action raised.
        """
        return next(self._turn).submit(action, *args)

    def __enter__(self):
        return self

    def close(self, wait=True):
        """End the threads, and wait until they have."""
        for thread in self._threads:
            thread.shutdown(wait, cancel_futures=True)

    def __exit__(self, *error):
        self.close(wait=error[0] is None)  # after an error, a thread may wait for ranks that have ended


def _call(*functions):
    for function in functions:
        function()
