"""Weights that others have released: LangCell (Zhao et al. 2024) and Geneformer."""
