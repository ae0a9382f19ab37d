"""Naming cells with no labels or a few."""
