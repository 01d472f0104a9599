"""Microbenchmarks: what is timed is checked first, kernels are warm, times are medians, and the FMA peak that
a number is compared with is measured beside it. Every `measure` returns a dictionary that JSON can hold: lists
of rows are its tables.
"""
