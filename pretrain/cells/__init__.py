"""Training cells: in memory or streamed from shards, sampled, masked."""
