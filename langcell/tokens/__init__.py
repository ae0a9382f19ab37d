"""Cells as rank-value token sequences, and pre-tokenised corpora on disk."""
