"""Labels: candidate cell types, tissue priors, and obs columns compared with calls."""
