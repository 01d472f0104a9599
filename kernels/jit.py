"""The one place that says how kernels are compiled.

Without fast math: where LLVM may reorder or fuse, how it rounds depends on what it has inlined before, and a kernel
that was just compiled differs in the last bits from the same one out of the cache. Kernels fuse by themselves.
"""

import numba

import kernels.cache  # noqa: F401  (before anything is compiled)

jit = numba.njit(nogil=True, cache=True)
uncached_jit = numba.njit(nogil=True)  # its assembly can be read
parallel_jit = numba.njit(nogil=True, cache=True, parallel=True)
# for small functions on many arrays, whose passing would cost more than their work
inlined_jit = numba.njit(nogil=True, cache=True, inline="always")
