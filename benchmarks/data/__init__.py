"""Labelled files that benchmarks measure on, and training cells for baselines."""
