"""The momentum update, the sum of gradients, and the norms that clipping and LARS need, on flat arrays."""

import numba
import numpy as np

from kernels.check import expect, expect_stored
from kernels.division import TASKS
from kernels.jit import parallel_jit
from kernels.ranges import nth_range
from kernels.vector import load, store, widen, zero64


def sgd_update(w, g, history, rate, momentum, decay, scale=1.0, l1=False, nesterov=False):
    """Caffe's SGDSolver on flat arrays, in place:

        step = scale * g + decay * (sign(w) if l1 else w)
        history = rate * step + momentum * history;  w -= history

    With `nesterov` its NesterovSolver: w -= (1 + momentum) * history - momentum * (the history before).
    The rate is a factor of the history, unlike in PyTorch.

    w, g, history          weights, gradients and momentum, flat float32 arrays of one size
    rate, momentum, decay  of the update; decay of L2, or of L1 if `l1`
    scale                  of g: for the mean over workers, and for clipping
    """
    expect_stored(w=(w, 1), g=(g, 1), history=(history, 1))
    _update(w, g, history, *(np.float32(v) for v in (rate, momentum, decay, scale)), l1, nesterov)


def add_into(total, values):
    """total += values, flat float64 and float32 arrays of one size, in place."""
    expect_stored(values=(values, 1))
    expect(total.dtype == np.float64 and total.shape == values.shape, f"total is {total.dtype} {total.shape}")
    _add_into(total, values)


def squared_norm(v):
    """The sum of squares of a flat float32 array, in float64 and in an order that threads do not change."""
    expect_stored(v=(v, 1))
    sums = np.zeros((TASKS, 16))
    _squares(v, sums)
    return float(sums.sum())


@parallel_jit
def _update(w, g, history, rate, momentum, decay, scale, l1, nesterov):
    """`sgd_update`, with float32 scalars."""
    ahead = momentum if nesterov else np.float32(0)  # no branch in the loop
    for i in numba.prange(w.size):
        pull = np.sign(w[i]) if l1 else w[i]
        step = rate * (scale * g[i] + decay * pull) + momentum * history[i]
        w[i] -= step + ahead * (step - history[i])
        history[i] = step


@parallel_jit
def _add_into(total, values):
    """`add_into`."""
    for i in numba.prange(total.size):
        total[i] += values[i]


@parallel_jit
def _squares(v, sums):
    """sums (TASKS, 16) = the sums of squares of a piece of v each, lane by lane; those of a rest of less than 16 values
    are added to the first.
    """
    vectors = v.size // 16
    out = sums.reshape(-1)
    for task in numba.prange(TASKS):
        total = zero64()
        first, last = nth_range(task, TASKS, vectors)
        for i in range(first, last):
            value = widen(load(v, i * 16))
            total = total + value * value
        store(out, task * 16, total)
    for i in range(vectors * 16, v.size):
        out[0] += np.float64(v[i]) * np.float64(v[i])
