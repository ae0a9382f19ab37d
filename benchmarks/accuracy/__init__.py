"""Accuracy benchmarks; each is a runnable module that prints a table."""
