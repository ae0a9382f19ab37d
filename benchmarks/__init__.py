"""Speed and accuracy against peers, each a runnable module that prints JSON and a table."""
