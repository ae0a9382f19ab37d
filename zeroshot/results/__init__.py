"""Annotation results: in memory, on disk while a run lasts, written to files and read back."""
