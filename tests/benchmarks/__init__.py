"""Figures with their conditions: `python -m tests.benchmarks`. Nothing here asserts a time."""
