"""Read and convert the released weights of LangCell (Zhao et al. 2024) and Geneformer."""
