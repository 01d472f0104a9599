"""What this machine can do: threads, and the measured FMA peak and bandwidth that kernels are compared with."""

import time

import numba
import numpy as np

from kernels.jit import parallel_jit
from kernels.registers import HELD
from kernels.tiles import fma_chain, pair_chain


def set_threads(threads):
    """Set how many threads the kernels use. Raises ValueError if there are fewer cores."""
    if not 1 <= threads <= numba.config.NUMBA_NUM_THREADS:
        raise ValueError(f"{threads} threads, expected 1 to {numba.config.NUMBA_NUM_THREADS} (cores of this machine)")
    numba.set_num_threads(threads)


def fma_peak(repeats=5, precision="float32"):
    """The peak of the threads in use, in GFLOP/s: the best of `repeats` runs of nothing but independent float32 FMAs,
    or with `precision` "bf16" of sums of two bf16 products.
    """
    threads, count, bf16 = numba.get_num_threads(), 1_000_000, precision == "bf16"
    chains = _pair_chains if bf16 else _chains
    chains(1, threads)
    best = min(_seconds(lambda: chains(count, threads)) for _ in range(repeats))
    return threads * count * HELD.products * 4 * (4 if bf16 else 2) * 16 / best / 1e9


def memory_bandwidth(repeats=5, floats=64 << 20):
    """What the memory delivers to the threads in use, in GB/s: the best of `repeats` runs of a = b + a / 2 on arrays
    of `floats` (256 MiB each: larger than the caches). All traffic is counted, 12 bytes an element: both arrays are
    read, one is written.
    """
    a, b = np.ones(floats, np.float32), np.ones(floats, np.float32)
    _stream(a, b)
    best = min(_seconds(lambda: _stream(a, b)) for _ in range(repeats))
    return 3 * a.nbytes / best / 1e9


def _seconds(call):
    """How long a call takes, in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@parallel_jit
def _chains(count, threads):
    """`fma_chain(count)` on each thread."""
    out = np.zeros(threads, np.float32)
    for thread in numba.prange(threads):
        out[thread] = fma_chain(count)
    return out


@parallel_jit
def _pair_chains(count, threads):
    """`pair_chain(count)` on each thread."""
    out = np.zeros(threads, np.float32)
    for thread in numba.prange(threads):
        out[thread] = pair_chain(count)
    return out


@parallel_jit
def _stream(a, b):
    """a = b + a / 2, flat float32 arrays of one size."""
    for i in numba.prange(a.size):
        a[i] = b[i] + np.float32(0.5) * a[i]
