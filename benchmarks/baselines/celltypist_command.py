"""Annotate the cells of a file with CellTypist, as its users do: read, normalise, annotate, write.

`python -m benchmarks.baselines.celltypist_command CELLS.h5ad MODEL.pkl CALLS.csv`
"""

import sys
import warnings


def main() -> None:
    """Annotate without majority voting, which would need a clustering."""
    cells, model, out = sys.argv[1:]
    with warnings.catch_warnings():
        # Importing the package emits warnings of its dependencies.
        warnings.simplefilter("ignore")
        import anndata
        import celltypist
        import scanpy

        adata = anndata.read_h5ad(cells)
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
        found = celltypist.annotate(adata, model=model, majority_voting=False)
    found.predicted_labels.to_csv(out)


if __name__ == "__main__":
    main()
