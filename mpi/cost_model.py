"""Predicted time of a training step on a cluster: buckets of gradients against the backward pass.

Pure arithmetic on bytes and seconds, without layers and without MPI.

The sum of n bytes over p ranks takes 2 (p - 1) / p * n / bandwidth + 2 ceil(log2 p) * latency, Rabenseifner's
algorithm: a reduce-scatter by halving, an allgather by doubling (Thakur, Rabenseifner and Gropp, Optimization of
Collective Communication Operations in MPICH, IJHPCA 19(1), 2005). The additions themselves are left out: they
run on the communication cores, at memory speed, which is several times that of the network.
"""

from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Network:
    """What a rank sees of the network: latency of a message in seconds, bandwidth in bytes/s in each direction."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Bucket:
    """Gradients that are sent together. Times are in seconds after the start of backward.

    size        bytes
    ready       when its last gradient is computed
    start, end  of its sum over the ranks, which may have to wait for earlier buckets
    """

    size: int
    ready: float
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The buckets of one backward pass of `backward` seconds, in the order in which they are sent."""

    backward: float
    buckets: tuple[Bucket, ...]

    @property
    def communication(self):
        """Seconds during which buckets are in flight."""
        return sum(bucket.end - bucket.start for bucket in self.buckets)

    @property
    def exposed(self):
        """Seconds that the ranks wait after backward for the sum of the last bucket."""
        return max(0.0, self.buckets[-1].end - self.backward) if self.buckets else 0.0

    @property
    def hidden(self):
        """The share of communication during which the ranks compute; 1 if there is no communication."""
        return 1 - self.exposed / self.communication if self.communication else 1.0


def allreduce_seconds(size, ranks, network):
    """Seconds to sum `size` bytes over `ranks` ranks; 0 for one rank."""
    if ranks == 1:
        return 0.0
    rounds = (ranks - 1).bit_length()  # ceil(log2 ranks)
    return 2 * (ranks - 1) / ranks * size / network.bandwidth + 2 * rounds * network.latency


def into_buckets(gradients, least):
    """[(bytes, ready)] of buckets, from [(bytes, ready)] of gradients in backward order.

    A bucket is closed as soon as it holds `least` bytes. Gradients are not split: a large one makes a large bucket.
    """
    buckets, size, ready = [], 0, 0.0
    for nbytes, ready_at in gradients:
        size, ready = size + nbytes, max(ready, ready_at)
        if size >= least:
            buckets.append((size, ready))
            size = 0
    return [*buckets, (size, ready)] if size else buckets


def timeline(gradients, backward, ranks, network, least, overlap=True):
    """The Timeline of a backward pass.

    gradients  [(bytes, seconds after the start of backward at which it is ready)], in backward order
    backward   its length in seconds
    least      bytes at which a bucket is closed
    overlap    whether a bucket is sent as soon as it is ready; else all are sent after backward
    """
    if ranks == 1:
        return Timeline(backward, ())
    buckets, free = [], 0.0
    for size, ready in into_buckets(gradients, least):
        start = max(ready if overlap else backward, free)  # one after another: together they would share the link
        free = start + allreduce_seconds(size, ranks, network)
        buckets.append(Bucket(size, ready, start, free))
    return Timeline(backward, tuple(buckets))


def slowest(ranks, spread):
    """How much longer than the mean the slowest of `ranks` takes for the same work, as a factor of 1 or more.

    spread  the standard deviation of a rank's time, as a share of the mean; times are normal and independent

    The expected largest of p normal values, by Blom's approximation.
    """
    return 1 + spread * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
