"""Write files of any size by repeating the real cells of a corpus."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from langcell.counts.reader import open_counts


@dataclass(frozen=True, kw_only=True, eq=False)
class RealCells:
    """Cells of several studies over the union of their genes.

    Attributes
    ----------
    counts: raw counts, float32, shape (n_cells, n_genes)
    ensembl_ids: gene of each column
    """

    counts: sparse.csr_matrix
    ensembl_ids: tuple[str, ...]


def read_real_cells(corpus: Path) -> RealCells:
    """Read all files of single cells with raw counts.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    """
    manifest = corpus / "manifest.tsv"
    if not manifest.is_file():
        raise FileNotFoundError(
            f"no corpus in {corpus.parent}: {manifest} is missing; name its folder with --shared"
        )
    files = pd.read_csv(manifest, sep="\t").query("kind == 'cells' and scale == 'counts'")
    column_of: dict[str, int] = {}
    parts = []
    for file in files.sort_values("name").itertuples(index=False, name="Row"):
        with open_counts(corpus / str(file.role) / "cells" / f"{file.name}.h5ad") as matrix:
            counts = sparse.vstack([block.counts for block in matrix.blocks()]).tocsc()
            ids = matrix.resolution.ensembl_ids
        known = np.flatnonzero(ids != "")
        columns = np.array([column_of.setdefault(each, len(column_of)) for each in ids[known]])
        parts.append((counts[:, known].tocoo(), columns))
    # Conversion to CSR sums columns of the same gene.
    rows = [
        sparse.csr_matrix(
            (part.data, (part.row, columns[part.col])), (part.shape[0], len(column_of))
        )
        for part, columns in parts
    ]
    counts = sparse.vstack(rows, format="csr").astype(np.float32)
    return RealCells(counts=counts, ensembl_ids=tuple(column_of))


def write_repeated(cells: RealCells, path: Path, n_cells: int, *, seed: int) -> None:
    """Write a compressed h5ad of cells drawn with replacement."""
    from anndata import AnnData

    rng = np.random.default_rng(seed)
    counts = cells.counts[rng.integers(0, cells.counts.shape[0], n_cells)]
    counts.sort_indices()
    adata = AnnData(X=counts)
    adata.obs_names = [f"cell-{number}" for number in range(n_cells)]
    adata.var_names = list(cells.ensembl_ids)
    adata.write_h5ad(path, compression="gzip")
