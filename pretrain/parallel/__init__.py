"""Distributed training: gathering features with gradients, sharding weights, strategies."""
