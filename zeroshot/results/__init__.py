"""Annotation results: in memory, in the folder of a running job, and in annotated files."""
