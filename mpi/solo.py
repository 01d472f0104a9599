"""One process without MPI, with the interface of `mpi.world.World`."""

import socket

from mpi.reducer import Reducer


class Solo:
    """A world of one rank: nothing to send, nobody to wait for."""

    rank, size, local_rank, local_size = 0, 1, 0, 1
    library, thread_level = "none", "multiple"

    def __init__(self):
        self.host = socket.gethostname()

    def broadcast(self, array):
        """Rank 0's values for everybody, in place."""

    def sum(self, array):
        """The sum over ranks of a flat array, in place."""

    def combine(self, mine, counts, function, out):
        """out = function(mine), a list of arrays like `out`."""
        out[:] = function(mine)

    def reducer(self, threads=1):
        """A `Reducer`: threads that sum while others compute."""
        return Reducer([None] * threads)

    def sum_scalars(self, values):
        """The sums over ranks of a few floats, in float64."""
        return [float(value) for value in values]

    def share(self, value):
        """Rank 0's value, a small object."""
        return value

    def gather(self, value):
        """Every rank's value, in order of rank."""
        return [value]

    def barrier(self):
        """Wait for all ranks."""

    def one_a_host_first(self, action):
        """Do something on one rank of each host, then on its others."""
        action()
