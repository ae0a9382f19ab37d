"""Build a tokenised corpus on disk: `langcell corpus build`."""
