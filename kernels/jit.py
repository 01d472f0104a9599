"""The one place that says how kernels are compiled."""

import numba

# A NaN or an infinity must surface, so nnan and ninf are not among them.
FAST_MATH = {"nsz", "arcp", "contract", "afn", "reassoc"}

jit = numba.njit(nogil=True, cache=True, fastmath=FAST_MATH)
parallel_jit = numba.njit(nogil=True, cache=True, fastmath=FAST_MATH, parallel=True)
# for small functions on many arrays, whose passing would cost more than their work
inlined_jit = numba.njit(nogil=True, cache=True, fastmath=FAST_MATH, inline="always")
