"""HTML report of an annotated file."""
