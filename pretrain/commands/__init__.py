"""The commands `langcell pretrain` and `langcell corpus`."""
