"""Building a tokenised corpus on disk: `langcell corpus build`."""
