"""Scores of all cells of an annotated file: input and output of decoders."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from anndata.io import read_elem
from scipy import sparse

from langcell.runtime.parameter_names import option
from zeroshot.labels.candidates import FREE_TEXT
from zeroshot.results.annotations import Slots
from zeroshot.scores.scores import DECIMALS, rounded

if TYPE_CHECKING:
    from anndata import AnnData

UNASSIGNED = "unassigned"  # label of a cell to which a decoder assigns none
_RESOLUTION = 0.5 * 10.0**-DECIMALS  # largest probability that is rounded to 0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CellScores:
    """Sparse probabilities of the candidates of every cell.

    A row holds the most probable candidates of a cell and sums to at most one. Candidates that are
    not stored are improbable, not impossible (see `unstored`). A row without entries has no call.

    Attributes
    ----------
    probabilities: float32, shape (n_cells, n_candidates)
    candidate_ids: Cell Ontology ids, "text: <words>" for free text, shape (n_candidates,)
    candidate_names: shape (n_candidates,)
    """

    probabilities: sparse.csr_matrix
    candidate_ids: tuple[str, ...]
    candidate_names: tuple[str, ...]

    def __post_init__(self) -> None:
        width = self.probabilities.shape[1]
        if not width == len(self.candidate_ids) == len(self.candidate_names):
            raise ValueError(
                "probabilities must have a column for each candidate. Got "
                f"{width} columns, {len(self.candidate_ids)} ids and "
                f"{len(self.candidate_names)} names."
            )

    def __len__(self) -> int:
        return self.probabilities.shape[0]

    def __repr__(self) -> str:
        return f"CellScores({len(self):,} cells x {len(self.candidate_ids):,} candidates)"

    @property
    def n_stored(self) -> np.ndarray:
        """Number of candidates stored for each cell, shape (n_cells,)."""
        return np.diff(self.probabilities.indptr)

    @property
    def rows(self) -> np.ndarray:
        """Cell of each stored entry, shape (n_entries,)."""
        return np.repeat(np.arange(len(self)), self.n_stored)

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Order of the entries by cell and descending probability (ties by candidate), and ranks."""
        stored = self.probabilities
        order = np.lexsort((stored.indices, -stored.data, self.rows))
        ranks = np.arange(stored.nnz) - np.repeat(stored.indptr[:-1], self.n_stored)
        return order, ranks

    def ranked(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best candidates of each cell, best first.

        Returns
        -------
        Candidates, int32, and probabilities, float32, both (n_cells, k); -1 and 0 if a cell has
        fewer.
        """
        order, ranks = self._ranked
        kept = ranks < k
        rows, entries = self.rows[kept], order[kept]
        candidates = np.full((len(self), k), -1, dtype=np.int32)
        probabilities = np.zeros((len(self), k), dtype=np.float32)
        candidates[rows, ranks[kept]] = self.probabilities.indices[entries]
        probabilities[rows, ranks[kept]] = self.probabilities.data[entries]
        return candidates, probabilities

    @property
    def best(self) -> np.ndarray:
        """Best candidate of each cell, int32, -1 without a call, shape (n_cells,)."""
        return self.ranked(1)[0][:, 0]

    @property
    def margin(self) -> np.ndarray:
        """Probability of the best candidate minus that of the runner-up, shape (n_cells,)."""
        first, second = self.ranked(2)[1].T
        return first - second

    @property
    def names(self) -> np.ndarray:
        """Name of each cell's best candidate, object, shape (n_cells,)."""
        return np.array([*self.candidate_names, UNASSIGNED], dtype=object)[self.best]

    @property
    def term_ids(self) -> np.ndarray:
        """Cell Ontology id of each cell's best candidate, '' for none, shape (n_cells,)."""
        ids = ["" if each.startswith(FREE_TEXT) else each for each in self.candidate_ids]
        return np.array([*ids, ""], dtype=object)[self.best]

    @property
    def log_stored(self) -> np.ndarray:
        """Log-probabilities of the stored entries, float64, finite, shape (n_entries,)."""
        return np.log(np.maximum(self.probabilities.data.astype(np.float64), _RESOLUTION))

    @property
    def unstored(self) -> np.ndarray:
        """Probability of each candidate that is not stored, float64, shape (n_cells,).

        The remaining probability is divided equally among them, up to the lowest stored one.
        """
        stored = self.probabilities
        left = 1 - np.asarray(stored.sum(axis=1, dtype=np.float64)).ravel()
        share = left / np.maximum(1, stored.shape[1] - self.n_stored)
        least = np.ones(len(self))
        filled = self.n_stored > 0
        if filled.any():
            least[filled] = np.minimum.reduceat(stored.data, stored.indptr[:-1][filled])
        return np.clip(share, _RESOLUTION, np.maximum(least, _RESOLUTION))

    def with_probabilities(self, probabilities: sparse.csr_matrix) -> "CellScores":
        """Return scores of the same candidates with other probabilities, rounded to five decimals."""
        return CellScores(
            probabilities=sparse.csr_matrix(
                (rounded(probabilities.data), probabilities.indices, probabilities.indptr),
                shape=probabilities.shape,
            ),
            candidate_ids=self.candidate_ids,
            candidate_names=self.candidate_names,
        )

    def take(self, rows: np.ndarray) -> "CellScores":
        """Return the scores of the given rows, in that order."""
        return self.with_probabilities(self.probabilities[rows])

    def best_only(self, k: int) -> "CellScores":
        """Return scores with only the k best candidates of each cell."""
        order, ranks = self._ranked
        entries = np.sort(order[ranks < k])  # ascending, so that columns keep their order
        stored = self.probabilities
        sizes = np.minimum(self.n_stored, k)
        return self.with_probabilities(
            sparse.csr_matrix(
                (stored.data[entries], stored.indices[entries], np.append(0, np.cumsum(sizes))),
                shape=stored.shape,
            )
        )


def read_scores(source: "AnnData | str | Path", *, key: str = "langcell") -> CellScores:
    """Read the scores of an annotated AnnData or h5ad file.

    Parameters
    ----------
    source: an annotated AnnData or h5ad file
    key: prefix of the names of the results

    Raises
    ------
    ValueError
        If the source has no scores with this key.
    """
    slots = Slots(key=key)
    probabilities = read_slot(source, f"obsm/{slots.scores}")
    notes = read_slot(source, f"uns/{slots.key}")
    if probabilities is None or notes is None or "candidate_ids" not in notes:
        missing = f"obsm[{slots.scores!r}]" if probabilities is None else f"uns[{slots.key!r}]"
        where = source if isinstance(source, str | Path) else "the AnnData"
        raise ValueError(
            f"{where} has no {missing}: annotate it first, with langcell.annotate or langcell annotate "
            f"--out x.h5ad, or give the prefix of its results as {option('key_added')}"
        )
    return CellScores(
        probabilities=sparse.csr_matrix(probabilities),
        candidate_ids=tuple(map(str, notes["candidate_ids"])),
        candidate_names=tuple(map(str, notes["candidate_names"])),
    )


def read_slot(source: "AnnData | str | Path", slot: str) -> Any:
    """Return the entry at a path such as "obsm/X_pca", None if missing."""
    if not isinstance(source, str | Path):
        part, name = slot.split("/")
        return getattr(source, part).get(name)
    path = Path(source)
    if not path.is_file() or not h5py.is_hdf5(path):
        raise ValueError(f"{path}: not an h5ad file; scores are read from AnnData or h5ad files")
    with h5py.File(path, "r") as file:
        return read_elem(file[slot]) if slot in file else None
