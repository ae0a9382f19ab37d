"""Genes and markers behind a call."""
