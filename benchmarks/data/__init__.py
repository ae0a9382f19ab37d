"""Labelled files for evaluation, and training cells for baselines."""
