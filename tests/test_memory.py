"""A training step allocates nothing of size: activations, gradients and working memory are there from the first."""

import tracemalloc

from nptrain.bench.step import Work


def test_a_later_step_allocates_nothing_of_size():
    step = Work(True, 4, 96)
    step()
    tracemalloc.start()
    try:
        step()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        step()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
    assert peak - before < 1_000_000  # an activation of the first stage has 0.6 or 2.4 MB
