"""Simulated cells as files, to measure the speed of building and reading corpora."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import brentq

from langcell.genes.gene_table import GeneTable

N_GENES = 20_000
_TERMS = ("CL:0000236", "CL:0000084", "CL:0000540", "CL:0000066")
_DISTINCT = 1000
_ABUNDANCE_SPREAD, _DEPTH_SPREAD = 1.5, 0.3  # of logarithms
_DISPERSION = 2.0
_ROWS = 256


def write_cells(path: Path, n_cells: int, *, n_expressed: int, compression: str, seed: int) -> None:
    """Write an h5ad of labelled counts; `compression` is none, lzf or gzip."""
    table = GeneTable.bundled()
    genes = table.ensembl_ids[table.is_protein_coding]
    genes = np.concatenate([genes, table.ensembl_ids[~table.is_protein_coding]])[:N_GENES]
    few = draw_counts(min(n_cells, _DISTINCT), n_expressed, seed)
    copies = []
    for number in range(-(-n_cells // few.shape[0])):
        copy = few.copy()
        copy.data[copy.indptr[:-1]] += number  # of one gene, so that there are no duplicate cells
        copies.append(copy)
    counts = sparse.vstack(copies, format="csr")[:n_cells]
    obs = pd.DataFrame(
        {"cell_type_ontology_term_id": pd.Categorical(np.array(_TERMS)[np.arange(n_cells) % 4])},
        index=[str(row) for row in range(n_cells)],
    )
    cells = anndata.AnnData(counts, obs, pd.DataFrame(index=genes))
    cells.write_h5ad(path, compression=None if compression == "none" else compression)


def draw_counts(n_cells: int, n_expressed: int, seed: int) -> sparse.csr_matrix:
    """Draw counts, float32, of cells that express about `n_expressed` genes.

    Counts are negative binomial with mean gene abundance (the same for all seeds) times cell depth.
    As in real data most counts are 1, gene medians are similar, and a fifth of the genes of a cell are
    tied, which is the slowest case for ranking.
    """
    abundances = np.random.default_rng(0).lognormal(0, _ABUNDANCE_SPREAD, N_GENES)
    depth = brentq(lambda depth: _n_expressed(depth * abundances) - n_expressed, 0, 1e6)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, n_cells, _ROWS):
        n_rows = min(_ROWS, n_cells - start)
        depths = depth * rng.lognormal(0, _DEPTH_SPREAD, (n_rows, 1))
        noise = rng.gamma(_DISPERSION, 1 / _DISPERSION, (n_rows, N_GENES))
        parts.append(sparse.csr_matrix(rng.poisson(noise * depths * abundances), dtype=np.float32))
    return sparse.vstack(parts, format="csr")


def _n_expressed(means: np.ndarray) -> float:
    """Return the expected number of expressed genes per cell."""
    return float(np.sum(1 - (1 + means / _DISPERSION) ** -_DISPERSION))
