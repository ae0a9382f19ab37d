"""Genes that mark a group of cells: those detected in its cells and in few others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from langcell.counts import CountMatrix
from langcell.gene_table import GeneTable

_LEAST_DETECTED = 0.2  # of a group's cells; a rarer gene does not mark the group
_PSEUDO_SHARE = 0.02  # added to both shares, so that a gene absent elsewhere has a finite ratio


@dataclass(frozen=True, kw_only=True)
class GroupGene:
    """A gene and the shares of cells that express it, in the group and elsewhere."""

    symbol: str
    inside: float
    outside: float


def genes_that_mark(
    matrix: CountMatrix,
    members: np.ndarray,
    n_groups: int,
    *,
    n_genes: int = 6,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[GroupGene, ...]]:
    """Find the genes whose detection in a group exceeds that in all other cells the most.

    Counts are streamed: memory grows with groups times genes, not with cells.

    Parameters
    ----------
    matrix: the counts
    members: group of each cell, shape (n_cells,)
    n_groups: how many groups there are
    n_genes: of each group, at most
    progress: called with the number of cells read so far and of all cells

    Returns
    -------
    For each group its genes by ratio of detection, the highest first; none for a group that holds
    all the cells.
    """
    detected = np.zeros((n_groups, matrix.n_genes), dtype=np.int64)
    for block in matrix.blocks():
        n_rows = block.counts.shape[0]
        groups = members[block.start : block.start + n_rows]
        one_hot = sparse.csr_matrix(
            (np.ones(n_rows, dtype=np.int64), (groups, np.arange(n_rows))), (n_groups, n_rows)
        )
        found = (one_hot @ (block.counts > 0).astype(np.int64)).tocoo()
        detected[found.row, found.col] += found.data
        if progress is not None:
            progress(block.start + n_rows, matrix.n_cells)
    sizes = np.bincount(members, minlength=n_groups)
    total = detected.sum(axis=0)
    symbols = _symbols(matrix)
    return [
        _best(detected[group], total, int(sizes[group]), matrix.n_cells, symbols, n_genes)
        for group in range(n_groups)
    ]


def _best(
    inside: np.ndarray, total: np.ndarray, size: int, n_cells: int, symbols: np.ndarray, n: int
) -> tuple[GroupGene, ...]:
    if not 0 < size < n_cells:
        return ()
    share = inside / size
    elsewhere = (total - inside) / (n_cells - size)
    ratio = (share + _PSEUDO_SHARE) / (elsewhere + _PSEUDO_SHARE)
    # More than one cell: what a single cell expresses by chance marks no group.
    usable = (share >= _LEAST_DETECTED) & (ratio > 1) & (inside > 1)
    order = np.argsort(-np.where(usable, ratio, 0), kind="stable")[:n]
    return tuple(
        GroupGene(symbol=symbols[gene], inside=float(share[gene]), outside=float(elsewhere[gene]))
        for gene in order
        if usable[gene]
    )


def _symbols(matrix: CountMatrix) -> np.ndarray:
    table = GeneTable.bundled()
    names = zip(matrix.resolution.ensembl_ids, matrix.gene_names, strict=True)
    return np.array([table.symbol(i) if i else name for i, name in names], dtype=object)
