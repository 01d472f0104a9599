"""Benchmarks. Results are checked before they are timed, kernels are warm, times are medians, and the FMA peak with
which a speed is compared is measured at the same time. Every `measure` returns a dictionary for JSON, whose tables are
lists of rows.
"""
