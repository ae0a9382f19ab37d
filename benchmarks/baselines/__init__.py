"""Baselines: simple and published methods to compare models with."""
