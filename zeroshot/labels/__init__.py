"""Labels: the candidate cell types, tissue weights, and obs columns compared with calls."""
