"""Processes that train together: gathering with gradients, sharding, strategies."""
