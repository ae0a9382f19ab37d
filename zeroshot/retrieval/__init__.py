"""Search for cells that fit a text description, at a false discovery rate."""
