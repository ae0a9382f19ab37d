"""Speed and memory benchmarks; each is a runnable module that prints a table."""
