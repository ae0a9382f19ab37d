"""Count matrices and names of an AnnData in memory."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from langcell.counts.row_readers import MemoryRows
from langcell.counts.source import GENE_COLUMNS, CountSource, GeneColumns, MatrixSlot, gene_columns


def open_anndata(adata: AnnData) -> CountSource:
    """Open an AnnData that is in memory, not backed by a file."""
    matrices: dict[str, Any] = {}
    if adata.raw is not None:
        matrices["raw.X"] = adata.raw.X
    if adata.X is not None:
        matrices["X"] = adata.X
    matrices |= {f"layers/{name}": adata.layers[name] for name in adata.layers}
    slots = {
        name: MatrixSlot(
            open_rows=partial(MemoryRows, matrix),
            read_genes=partial(_genes, adata.raw.var if name == "raw.X" else adata.var),
        )
        for name, matrix in matrices.items()
    }
    return CountSource(
        label="AnnData", slots=slots, read_obs_names=lambda: text_values(adata.obs_names)
    )


def _genes(var: pd.DataFrame) -> GeneColumns:
    names = {"index": text_values(var.index)}
    names |= {name: text_values(var[name]) for name in GENE_COLUMNS if name in var}
    types = text_values(var["feature_types"]) if "feature_types" in var else None
    return gene_columns(names, types)


def text_values(values: Any) -> np.ndarray:
    """Convert a column of any dtype to an object array of str, '' where a value is missing."""
    values = np.asarray(values, dtype=object)
    return np.array(
        [
            value.decode() if isinstance(value, bytes) else "" if pd.isna(value) else str(value)
            for value in values
        ],
        dtype=object,
    )
