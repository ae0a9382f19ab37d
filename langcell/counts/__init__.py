"""Raw counts from any source (AnnData, h5ad, zarr, 10x), checked and streamed as CSR row blocks."""
