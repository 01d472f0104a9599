"""A training step allocates nothing of size: activations, gradients and working memory are there from the first."""

import tracemalloc

import pytest

from kernels import fast
from nptrain.bench.step import Work


@pytest.mark.parametrize(("precision", "batch"), [("float32", 4), ("bf16", 8)])
def test_a_later_step_allocates_nothing_of_size(precision, batch):
    step = Work(True, batch, 128, ops=fast.configured(precision=precision))
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
    assert peak - before < 1_000_000  # an activation of the first stage has 1.05 or 4.2 MB
