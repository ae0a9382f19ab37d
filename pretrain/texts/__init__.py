"""Training texts: descriptions of cell types, and which pairs of cell and text are negatives."""
