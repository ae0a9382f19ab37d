"""Cells and clusters that an explanation is asked for, and their genes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from langcell.counts.reader import CountMatrix
from langcell.model.embed_cells import BLOCK_CELLS
from langcell.tokens.tokenizer import RankTokenizer, TokenBlock

_NAMES_SHOWN = 5
_NEAR_ROWS = 16  # cells no farther apart are read together


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A cell, or the cells of a cluster that speak for it.

    Attributes
    ----------
    name: of the cell or the cluster
    rows: of the matrix, ascending, shape (n_cells,)
    """

    name: str
    rows: np.ndarray


def cell_targets(names: Sequence[str], obs_names: np.ndarray) -> list[Target]:
    """Find cells by name.

    Raises
    ------
    ValueError
        If a name is not that of one cell.
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
    """The chosen cells of a file, in the order of its rows.

    Attributes
    ----------
    targets: whose cells they are
    rows: where they stand in the file, ascending, shape (n_cells,)
    tokens: their ranked genes, one more than the model reads
    counts: over all columns of the file, shape (n_cells, n_columns)
    ensembl_ids: gene of each column, '' for none
    """

    targets: Sequence[Target]
    rows: np.ndarray
    tokens: TokenBlock
    counts: sparse.csr_matrix
    ensembl_ids: np.ndarray

    def places(self, target: Target) -> np.ndarray:
        """Return where the cells of a target stand among these, shape (n_cells,)."""
        return np.searchsorted(self.rows, target.rows)

    def is_measured(self, ensembl_ids: Sequence[str]) -> bool:
        """Tell whether the file has a column for one of these genes."""
        return any(each in self._columns for each in ensembl_ids)

    def shares(self, ensembl_ids: Sequence[str]) -> np.ndarray:
        """Return the share of each target's cells with a count of one of these genes.

        Returns
        -------
        Shape (n_targets,), in the order of `targets`
        """
        key = tuple(ensembl_ids)
        if key not in self._known:
            columns = [column for each in key for column in self._columns.get(each, ())]
            expresses = np.asarray((self._by_column[:, columns] > 0).sum(axis=1)).ravel() > 0
            self._known[key] = np.array([expresses[each].mean() for each in self._places])
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[str, ...], np.ndarray]:
        """Shares that were asked for: targets share many of their genes."""
        return {}

    @cached_property
    def _places(self) -> list[np.ndarray]:
        return [self.places(target) for target in self.targets]

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
    """Read the cells of all targets, and few others: the time does not grow with the file."""
    rows = np.unique(np.concatenate([target.rows for target in targets]))
    counts, totals = [], []
    is_apart = (np.diff(rows) > _NEAR_ROWS) | (np.diff(rows // BLOCK_CELLS) > 0)
    for near in np.split(rows, np.flatnonzero(is_apart) + 1):
        block = matrix.read(int(near[0]), int(near[-1]) + 1)
        counts.append(block.counts[near - near[0]])
        totals.append(block.totals[near - near[0]])
    joined = sparse.vstack(counts, format="csr")
    genes = tokenizer.column_genes(matrix.resolution)
    return TargetCells(
        targets=targets,
        rows=rows,
        tokens=tokenizer.tokenize_csr(joined, genes, np.concatenate(totals)),
        counts=joined,
        ensembl_ids=matrix.resolution.ensembl_ids,
    )
