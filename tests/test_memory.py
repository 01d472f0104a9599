"""A training step allocates nothing of size: activations, gradients and working memory are there from the first."""

import tracemalloc

import pytest

from kernels import fast
from nptrain.bench.step import Work


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_later_step_allocates_nothing_of_size(precision):
    step = Work(True, 8, 128, ops=fast.configured(precision=precision))
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
    assert peak - before < 1_000_000  # in bf16, an activation of the first stage has 1.05 or 4.2 MB
