"""What the kernels of `sgd` and `bf16` mean, on flat arrays of any float dtype. `naive` exports them."""

import numpy as np


def sgd_update(w, g, history, rate, momentum, decay, scale=1.0, l1=False, nesterov=False):
    """history = rate * (scale * g + decay * (sign(w) if l1 else w)) + momentum * history;  w -= history; with
    `nesterov`, w -= (1 + momentum) * history - momentum * (the history before).
    """
    before = history.copy()
    history[...] = rate * (scale * g + decay * (np.sign(w) if l1 else w)) + momentum * history
    w -= (1 + momentum) * history - momentum * before if nesterov else history


def add_into(total, values):
    """total += values, in total's precision."""
    total += values


def squared_norm(v):
    """The sum of squares, in float64."""
    return float(np.square(v, dtype=np.float64).sum())


def bf16_split(values, bits):
    """`bits` gets the upper halves of `values` as float32, rounded to nearest, ties to even; NaN stays NaN, what is too
    large is inf. `values` keeps the rest: what rounding lost, 0 where the result is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        words = values.astype(np.float32).view(np.uint32)
        upper, lower = words >> 16, words & 0xFFFF
        up = (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
        bits[:] = np.where(np.isnan(values), upper | 0x40, upper + up)
        rounded = _decoded(bits)
        values[:] = np.where(np.isfinite(rounded), values - rounded, 0)


def bf16_add_into(total, bits):
    """total += the values of bits, in total's precision."""
    with np.errstate(over="ignore", invalid="ignore"):
        total += _decoded(bits)


def _decoded(bits):
    """The float32 whose upper half is given, and whose lower is zero."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
