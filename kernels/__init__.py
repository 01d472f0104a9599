"""Numeric kernels on NumPy arrays: `fast` (Numba, blocked layout, float32) and `naive`, the NumPy twin
that defines each of them. They know shapes; no network, no files, no ranks.
"""
