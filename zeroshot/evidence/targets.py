"""Select the cells and clusters to explain, and read their genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from langcell.counts.reader import CountMatrix
from langcell.model.embed_cells import BLOCK_CELLS
from langcell.tokens.tokenizer import RankTokenizer, TokenBlock

_NAMES_SHOWN = 5
_MAX_GAP = 16  # rows at most this far apart are read together


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A cell to explain, or a cluster with a sample of its cells.

    Attributes
    ----------
    name: name of the cell or the cluster
    rows: rows of the matrix, ascending, shape (n_cells,)
    """

    name: str
    rows: np.ndarray


def cell_targets(names: Sequence[str], obs_names: np.ndarray) -> list[Target]:
    """Find cells by name.

    Raises
    ------
    ValueError
        If a name does not match exactly one cell.
    """
    targets = []
    for name in names:
        rows = np.flatnonzero(obs_names == name)
        if len(rows) != 1:
            some = ", ".join(map(str, obs_names[:_NAMES_SHOWN]))
            what = f"{len(rows)} cells have" if len(rows) else "no cell has"
            raise ValueError(f"{what} the name {name!r}; names are unique, such as {some}")
        targets.append(Target(name=name, rows=rows))
    return targets


def cluster_targets(clusters: np.ndarray, *, max_cells: int) -> list[Target]:
    """Return each cluster with up to `max_cells` of its cells, evenly spaced over the file.

    Parameters
    ----------
    clusters: cluster of each cell as text, '' for none, shape (n_cells,)
    """
    targets = []
    for name in sorted(set(clusters) - {""}):
        rows = np.flatnonzero(clusters == name)
        if len(rows) > max_cells:
            rows = rows[np.linspace(0, len(rows) - 1, max_cells).round().astype(np.intp)]
        targets.append(Target(name=name, rows=rows))
    return targets


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetCells:
    """The cells of all targets, in file order.

    Attributes
    ----------
    targets: targets of the cells
    rows: rows of the cells in the file, ascending, shape (n_cells,)
    tokens: ranked genes of each cell, one more than the model reads
    counts: counts of all genes of the file, shape (n_cells, n_columns)
    ensembl_ids: gene of each column, '' for none
    """

    targets: Sequence[Target]
    rows: np.ndarray
    tokens: TokenBlock
    counts: sparse.csr_matrix
    ensembl_ids: np.ndarray

    def positions(self, target: Target) -> np.ndarray:
        """Return the positions of a target's cells in `tokens` and `counts`, shape (n_cells,)."""
        return np.searchsorted(self.rows, target.rows)

    def is_measured(self, ensembl_ids: Sequence[str]) -> bool:
        """Return whether the file has a column for any of these genes."""
        return any(each in self._columns for each in ensembl_ids)

    def shares(self, ensembl_ids: Sequence[str]) -> np.ndarray:
        """Return the fraction of each target's cells that express any of these genes.

        Returns
        -------
        Shape (n_targets,), in the order of `targets`
        """
        key = tuple(ensembl_ids)
        if key not in self._cache:
            columns = [column for each in key for column in self._columns.get(each, ())]
            expresses = np.asarray((self._by_column[:, columns] > 0).sum(axis=1)).ravel() > 0
            self._cache[key] = np.array([expresses[each].mean() for each in self._positions])
        return self._cache[key]

    @cached_property
    def _cache(self) -> dict[tuple[str, ...], np.ndarray]:
        """Results of `shares` by genes: targets have many genes in common."""
        return {}

    @cached_property
    def _positions(self) -> list[np.ndarray]:
        return [self.positions(target) for target in self.targets]

    @cached_property
    def _columns(self) -> dict[str, list[int]]:
        columns: dict[str, list[int]] = {}
        for column, ensembl_id in enumerate(self.ensembl_ids):
            if ensembl_id:
                columns.setdefault(ensembl_id, []).append(column)
        return columns

    @cached_property
    def _by_column(self) -> sparse.csc_matrix:
        return self.counts.tocsc()


def read_target_cells(
    matrix: CountMatrix, tokenizer: RankTokenizer, targets: Sequence[Target]
) -> TargetCells:
    """Read the cells of all targets; the time does not grow with the file."""
    rows = np.unique(np.concatenate([target.rows for target in targets]))
    counts, totals = [], []
    is_apart = (np.diff(rows) > _MAX_GAP) | (np.diff(rows // BLOCK_CELLS) > 0)
    for run in np.split(rows, np.flatnonzero(is_apart) + 1):
        block = matrix.read(int(run[0]), int(run[-1]) + 1)
        counts.append(block.counts[run - run[0]])
        totals.append(block.totals[run - run[0]])
    joined = sparse.vstack(counts, format="csr")
    genes = tokenizer.column_genes(matrix.resolution)
    return TargetCells(
        targets=targets,
        rows=rows,
        tokens=tokenizer.tokenize_csr(joined, genes, np.concatenate(totals)),
        counts=joined,
        ensembl_ids=matrix.resolution.ensembl_ids,
    )
