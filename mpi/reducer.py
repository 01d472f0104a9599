"""Sums over ranks that travel while the kernels compute."""

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle


class Reducer:
    """Does what it is handed on threads of its own, which take turns: each in the order in which it was handed to it.
    The order must be the same on all ranks, or they wait for each other for ever. Until every result is taken, no
    other thread may talk to MPI.

    initializers  for each thread the functions that it calls first
    """

    def __init__(self, initializers=((),)):
        self._threads = [ThreadPoolExecutor(1, "reducer", _call, tuple(functions)) for functions in initializers]
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
        function()
