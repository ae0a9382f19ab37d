"""Benchmarks of accuracy, each a runnable module that prints a table."""
