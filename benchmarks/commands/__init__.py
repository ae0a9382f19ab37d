"""The command `langcell benchmark`."""
