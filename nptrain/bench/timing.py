"""Times of warm calls, and the conditions of a measurement."""

import resource
import statistics
import time

from numba import get_num_threads

SETTLE = 0.1  # s; other threads, such as those of NumPy's BLAS, spin for a while after their work


def seconds(call, repeats):
    """The median time of a call, in seconds, after calls for SETTLE seconds that do not count."""
    begin = time.perf_counter()
    while True:
        call()
        if time.perf_counter() - begin > SETTLE:
            break
    return statistics.median(samples({"": timed(call)}, repeats, 0)[""])


def timed(call):
    """`call` as a function that returns how long it took, in seconds."""

    def run():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


def samples(sides, repeats, warm_up=1):
    """{name: results} of calling all of `sides`, {name: call}, in turn, A, B, A, B: if the speed of the machine drifts,
    it does so for all. The results of `warm_up` calls of each do not count.
    """
    for call in sides.values():
        for _ in range(warm_up):
            call()
    results = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            results[name].append(call())
    return results


def conditions(batch, crop_size, repeats, precision="float32"):
    """The conditions of a measurement, which most results contain."""
    return {"batch": batch, "crop_size": crop_size, "threads": get_num_threads(), "repeats": repeats,
            "precision": precision}  # fmt: skip


def memory_mb():
    """The peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
