"""The weights of a convolution as its kernel multiplies them: transposed for a gradient of data, in bf16 in pairs."""

import numba
import numpy as np

from kernels.jit import parallel_jit
from kernels.layout import BF16
from kernels.pairs import pair_of, store_pairs
from kernels.scratch import PAIR_WEIGHTS, TRANSPOSED_WEIGHTS, kept, scratch
from kernels.scratch_sizes import pair_weights, transposed_weights
from kernels.vector import load, splat, store


def weights_operand(w, backward, dtype, by_winograd, made=None):
    """Stored float32 weights as a convolution of an input of `dtype` needs them. They may lie in working memory, valid
    until the next call.

    backward     exchange inputs and outputs; few inputs are filled up to a block
    by_winograd  by Winograd's algorithm, whose operands are float32
    made         a dict that keeps pairs for the next call with the same weights; None: they are made again
    """
    if dtype == BF16 and not by_winograd:
        pairs, empty = kept(PAIR_WEIGHTS, pair_weights(w.shape, backward), made)
        if empty:
            kernel = _pair_transposed if backward else _pair
            kernel(w.reshape(*w.shape[:2], -1, *w.shape[4:]), pairs.reshape(-1))
        return pairs
    if not backward:
        return w
    transposed = scratch(TRANSPOSED_WEIGHTS, transposed_weights(w.shape))
    _transpose(w.reshape(*w.shape[:2], -1, *w.shape[4:]), transposed.reshape(*transposed.shape[:2], -1, 16, 16))
    return transposed


@parallel_jit
def _transpose(w, transposed):
    """transposed[c, k, tap] = w[k, c, tap]', filled up with zeros.

    w           (K/16, C/16, taps, lanes, 16)
    transposed  (C/16, K/16, taps, 16, 16)
    """
    k_blocks, c_blocks, n_taps, lanes, _ = w.shape
    for pair in numba.prange(k_blocks * c_blocks):
        k, c = pair // c_blocks, pair % c_blocks
        for tap in range(n_taps):
            for row in range(16):
                for lane in range(lanes):
                    transposed[c, k, tap, row, lane] = w[k, c, tap, lane, row]
                for lane in range(lanes, 16):
                    transposed[c, k, tap, row, lane] = 0


@parallel_jit
def _pair(w, pairs):
    """pairs[k, c, tap, p, :, e] = w[k, c, tap, 2 p + e, :] as bf16, an odd last lane with zeros.

    w      (K/16, C/16, taps, lanes, 16)
    pairs  (K/16, C/16, taps, pairs of lanes, 16, 2), flat
    """
    k_blocks, c_blocks, n_taps, lanes, _ = w.shape
    wf, zero = w.reshape(-1), splat(np.float32(0))
    half = (lanes + 1) // 2
    for row in numba.prange(k_blocks * c_blocks):
        for tap in range(row * n_taps, (row + 1) * n_taps):
            for pair in range(half):
                at = (tap * lanes + 2 * pair) * 16
                second = load(wf, at + 16) if 2 * pair + 1 < lanes else zero
                store_pairs(pairs, (tap * half + pair) * 32, pair_of(load(wf, at), second))


@parallel_jit
def _pair_transposed(w, pairs):
    """pairs[c, k, tap, p, lane, e] = w[k, c, tap, lane, 2 p + e] as bf16, filled up with zeros.

    w      (K/16, C/16, taps, lanes, 16)
    pairs  (C/16, K/16, taps, 8, 16, 2), flat
    """
    k_blocks, c_blocks, n_taps, lanes, _ = w.shape
    wf, words = w.reshape(-1), pairs.view(np.uint32)
    for row in numba.prange(k_blocks * c_blocks):
        k, c = row // c_blocks, row % c_blocks
        rounded = np.zeros(256, np.uint16)
        halves = rounded.view(np.uint32)  # (16 lanes, 8 pairs of outputs)
        for tap in range(n_taps):
            for lane in range(lanes):
                store(rounded, lane * 16, load(wf, ((row * n_taps + tap) * lanes + lane) * 16))
            to = ((c * k_blocks + k) * n_taps + tap) * 128
            for pair in range(8):
                for lane in range(16):
                    words[to + pair * 16 + lane] = halves[lane * 8 + pair]
