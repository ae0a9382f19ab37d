"""Cells for a description in words, with a false discovery rate."""
