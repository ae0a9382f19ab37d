"""Human genes: the gene table, the resolution of gene names, and model vocabularies."""
