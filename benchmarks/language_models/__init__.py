"""Language models as methods of the arena."""
