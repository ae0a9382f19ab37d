"""Turning counts and words into weights."""
