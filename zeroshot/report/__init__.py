"""The HTML report on an annotated file."""
