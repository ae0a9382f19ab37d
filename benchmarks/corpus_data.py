"""Made-up cells as files, for measuring how fast corpora are built and read."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.tokenizer import N_GENES, make_cells
from langcell.gene_table import GeneTable

_TERMS = ("CL:0000236", "CL:0000084", "CL:0000540", "CL:0000066")
_DISTINCT = 4000


def write_cells(path: Path, n_cells: int, *, n_expressed: int, compression: str, seed: int) -> None:
    """Write an h5ad of labelled counts; `compression` is none, lzf or gzip."""
    table = GeneTable.bundled()
    genes = table.ensembl_ids[table.is_protein_coding]
    genes = np.concatenate([genes, table.ensembl_ids[~table.is_protein_coding]])[:N_GENES]
    few = make_cells(min(n_cells, _DISTINCT), n_expressed, seed)
    copies = []
    for number in range(-(-n_cells // few.shape[0])):
        copy = few.copy()
        copy.data += number  # so that no cell is there twice
        copies.append(copy)
    counts = sparse.vstack(copies, format="csr")[:n_cells]
    obs = pd.DataFrame(
        {"cell_type_ontology_term_id": pd.Categorical(np.array(_TERMS)[np.arange(n_cells) % 4])},
        index=[str(row) for row in range(n_cells)],
    )
    cells = anndata.AnnData(counts, obs, pd.DataFrame(index=genes))
    cells.write_h5ad(path, compression=None if compression == "none" else compression)
