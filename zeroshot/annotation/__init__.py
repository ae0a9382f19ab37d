"""From counts to annotated cells."""
