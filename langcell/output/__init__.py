"""Write embeddings and results to h5ad, NumPy and parquet files."""
