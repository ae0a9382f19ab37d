"""The commands `langcell embed`, `langcell models` and `langcell convert`."""
