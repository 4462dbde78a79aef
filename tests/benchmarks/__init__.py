"""Figures, not verdicts: `python -m tests.benchmarks [NAME ...]` measures the product and, in the same run, the disk.

Absolute times of a shared machine move by a factor of four; what holds is the ratio to a baseline of the same minute.
Nothing here is part of the test suite.
"""
