"""Training texts: descriptions of cell types, and the positive and negative pairs of cells and texts."""
