"""Few-shot heads: what they compute, and how they are stored and shared."""
