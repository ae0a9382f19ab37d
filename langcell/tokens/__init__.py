"""Tokenise cells as rank-value sequences, and read and write pre-tokenised corpora."""
