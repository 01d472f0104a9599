"""Results of a function that threads, or processes, compute ahead."""

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor


def ahead(function, items, threads, pool=None):
    """The results of `function` in the order of `items`, some of them computed ahead in `threads` threads, or in those
    of `pool`, an Executor. They end with the iterator: when it is closed, or `function` raises.
    """
    items, queue = iter(items), deque()
    pool = pool or ThreadPoolExecutor(threads)
    try:
        while True:
            queue.extend(pool.submit(function, item) for item in itertools.islice(items, 4 * threads - len(queue)))
            if not queue:
                return
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
