"""The `LangCell` model, and functions that embed cells and texts with it."""
