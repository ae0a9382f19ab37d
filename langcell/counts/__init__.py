"""Read raw counts from AnnData, h5ad, zarr or 10x files, check them, and stream CSR row blocks."""
