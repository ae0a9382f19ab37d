"""A source of counts: its matrices and names, before any matrix is read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from langcell.counts.row_readers import RowReader

KINDS = "h5ad, zarr, 10x h5 and folders with a 10x matrix.mtx"
# var columns that may hold better gene names than the index.
GENE_COLUMNS = (
    "ensembl_id",
    "gene_ids",
    "gene_id",
    "feature_id",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "feature_name",
)


@dataclass(frozen=True, kw_only=True)
class GeneColumns:
    """Names and types of the columns of a matrix.

    Attributes
    ----------
    names : names by var column, 'index' first; object arrays, shape (n_columns,).
    is_gene : False for other features (antibodies, guides); shape (n_columns,).
    """

    names: dict[str, np.ndarray]
    is_gene: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MatrixSlot:
    """One matrix of a source, read on demand."""

    open_rows: Callable[[], RowReader]
    read_genes: Callable[[], GeneColumns]


@dataclass(frozen=True, kw_only=True)
class CountSource:
    """The matrices of a source by name ('raw.X', 'X', 'layers/counts'), and its cell names."""

    label: str
    slots: dict[str, MatrixSlot]
    read_obs_names: Callable[[], np.ndarray]


def gene_columns(names: dict[str, np.ndarray], feature_types: np.ndarray | None) -> GeneColumns:
    """Combine column names with 10x feature types, if there are any."""
    n_columns = len(next(iter(names.values())))
    is_gene = np.ones(n_columns, dtype=bool)
    if feature_types is not None and (feature_types == "Gene Expression").any():
        is_gene = feature_types == "Gene Expression"
    return GeneColumns(names=names, is_gene=is_gene)
