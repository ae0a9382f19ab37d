"""Speed and accuracy benchmarks; each is a runnable module that prints JSON and a table."""
