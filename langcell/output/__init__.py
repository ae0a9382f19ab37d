"""Embeddings written to h5ad, NumPy and parquet files."""
