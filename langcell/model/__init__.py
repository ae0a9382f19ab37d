"""The model that users hold, and the embedding of cells and texts with it."""
