"""Simple and published methods that models are compared with."""
