"""Benchmarks of speed and memory, each a runnable module that prints a table."""
