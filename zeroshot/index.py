"""Which labels lie nearest to a cell: an exact FAISS index over label text features."""

from collections.abc import Iterator, Sequence

import faiss
import numpy as np

# Every query has this many rows, padded with zeros: matrix products of one shape give a cell the
# same bits whichever cells stand beside it.
QUERY_ROWS = 256


class LabelIndex:
    """Labels in the common space, searched exactly by inner product.

    Parameters
    ----------
    features: text features, float32, unit norm, shape (n_labels, embedding_dim)
    ids: one identifier a label
    offsets: subtracted from the similarity of each label, shape (n_labels,); None for none (see
        `langcell.reference.ReferenceCells.label_offsets`). Of several groups of cells, such as
        those of different tissues, a row each: shape (n_groups, n_labels).

    Raises
    ------
    ValueError
        If there is not one row a label, or there are no labels.

    Examples
    --------
    >>> index = LabelIndex(np.eye(3, dtype=np.float32), ["CL:1", "CL:2", "CL:3"])
    >>> similarities, labels = index.search(np.array([[0.6, 0.8, 0.0]], dtype=np.float32), k=2)
    >>> [index.ids[label] for label in labels[0]]
    ['CL:2', 'CL:1']
    """

    def __init__(
        self, features: np.ndarray, ids: Sequence[str], offsets: np.ndarray | None = None
    ) -> None:
        features = np.ascontiguousarray(features, dtype=np.float32)
        if features.ndim != 2 or len(features) != len(ids) or not len(ids):
            raise ValueError(
                f"features must have shape (n_labels={len(ids)}, embedding_dim) with at least one "
                f"label. Got {features.shape}."
            )
        self.ids = tuple(ids)
        self.features = features
        # Further dimensions, one a group, in which a query of the group is 1 and others are 0: the
        # search subtracts the offsets itself.
        columns = np.zeros((1, len(ids))) if offsets is None else -np.atleast_2d(offsets)
        self._rows = np.column_stack([features, columns.T]).astype(np.float32)
        self._flat = faiss.IndexFlatIP(self._rows.shape[1])
        self._flat.add(self._rows)

    def __len__(self) -> int:
        return len(self.ids)

    def search(
        self, cell_features: np.ndarray, k: int, groups: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest labels of each cell.

        Parameters
        ----------
        cell_features: float32, shape (n_cells, embedding_dim)
        k: labels wanted; all of them when there are fewer
        groups: row of the offsets of each cell, shape (n_cells,); the first without

        Returns
        -------
        Cosine similarities less offsets, float32, and rows of the index, int64, both (n_cells, k), best first;
        labels that tie come in the order of the index.
        """
        k = min(k, len(self))
        similarities = np.empty((len(cell_features), k), dtype=np.float32)
        labels = np.empty((len(cell_features), k), dtype=np.int64)
        for rows, queries in self._queries(cell_features, groups):
            found, places = self._flat.search(queries, k)
            n = rows.stop - rows.start
            order = np.lexsort((places[:n], -found[:n]), axis=1)
            similarities[rows] = np.take_along_axis(found[:n], order, axis=1)
            labels[rows] = np.take_along_axis(places[:n], order, axis=1)
        return similarities, labels

    def log_normaliser(
        self, cell_features: np.ndarray, scale: float, groups: np.ndarray | None = None
    ) -> np.ndarray:
        """Return log sum over all labels of exp(scale * similarity), float64, shape (n_cells,)."""
        total = np.empty(len(cell_features), dtype=np.float64)
        for rows, queries in self._queries(cell_features, groups):
            similarities = queries @ self._rows.T  # (rows, n_labels)
            best = similarities.max(axis=1, keepdims=True)
            # Terms in single precision, whose errors are of either sign, and their sum in double.
            shares = np.exp(scale * (similarities - best)).sum(axis=1, dtype=np.float64)
            logarithms = scale * best[:, 0].astype(np.float64) + np.log(shares)
            total[rows] = logarithms[: rows.stop - rows.start]
        return total

    def _queries(
        self, cell_features: np.ndarray, groups: np.ndarray | None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        width = self.features.shape[1]
        for start in range(0, len(cell_features), QUERY_ROWS):
            rows = slice(start, min(start + QUERY_ROWS, len(cell_features)))
            queries = np.zeros((QUERY_ROWS, self._rows.shape[1]), dtype=np.float32)
            n = rows.stop - rows.start
            queries[:n, :width] = cell_features[rows]
            queries[np.arange(n), width if groups is None else width + groups[rows]] = 1
            yield rows, queries
