"""Exact FAISS index over label embeddings: finds the nearest labels of a cell."""

from collections.abc import Sequence

import faiss
import numpy as np

from langcell.runtime.threads import over_slices

# Every query has this many rows, padded with zeros: in matrix products of one shape, the result of a
# row does not depend on the other rows, bit for bit. It may still depend on the position of the row,
# by rounding: BLAS sums the rows of a tile in different orders.
QUERY_ROWS = 256


class LabelIndex:
    """Label embeddings, searched exactly by inner product.

    Parameters
    ----------
    features: text features, float32, unit norm, shape (n_labels, embedding_dim)
    ids: one identifier per label
    offsets: subtracted from the similarity of each label, shape (n_labels,); None for none (see
        `langcell.checkpoints.reference_cells.ReferenceCells.label_offsets`)

    Raises
    ------
    ValueError
        If features and ids differ in length, or there are no labels.

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
        # One more dimension, in which every query is 1, so that the search itself subtracts the offsets.
        column = np.zeros(len(ids)) if offsets is None else -offsets
        self._rows = np.column_stack([features, column]).astype(np.float32)
        self._flat = faiss.IndexFlatIP(self._rows.shape[1])
        self._flat.add(self._rows)

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, cell_features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest labels of each cell.

        Parameters
        ----------
        cell_features: float32, shape (n_cells, embedding_dim)
        k: number of labels; all of them if there are fewer

        Returns
        -------
        Cosine similarities minus offsets, float32, and rows of the index, int64, both (n_cells, k),
        best first; ties are in the order of the index.
        """
        k = min(k, len(self))
        similarities = np.empty((len(cell_features), k), dtype=np.float32)
        labels = np.empty((len(cell_features), k), dtype=np.int64)
        for start in range(0, len(cell_features), QUERY_ROWS):
            rows = slice(start, min(start + QUERY_ROWS, len(cell_features)))
            found, rows_found = self._flat.search(self._queries(cell_features[rows]), k)
            n = rows.stop - rows.start
            order = np.lexsort((rows_found[:n], -found[:n]), axis=1)
            similarities[rows] = np.take_along_axis(found[:n], order, axis=1)
            labels[rows] = np.take_along_axis(rows_found[:n], order, axis=1)
        return similarities, labels

    def log_probabilities(self, cell_features: np.ndarray, scale: float) -> np.ndarray:
        """Return the log-softmax over all labels of scale * (similarity - offset).

        Returns
        -------
        float32, shape (n_cells, n_labels): pass one block of cells at a time
        """
        found = np.empty((len(cell_features), len(self)), dtype=np.float32)

        def score_block(start: int, stop: int) -> None:
            similarities = self._queries(cell_features[start:stop]) @ self._rows.T
            similarities -= similarities.max(axis=1, keepdims=True)  # (rows, n_labels)
            similarities *= np.float32(scale)
            # Summands in float32, whose rounding errors average out; their sum in float64.
            normaliser = np.log(np.exp(similarities).sum(axis=1, dtype=np.float64))
            similarities -= normaliser[:, None].astype(np.float32)
            found[start:stop] = similarities[: stop - start]

        over_slices(score_block, len(found), size=QUERY_ROWS)
        return found

    def _queries(self, cell_features: np.ndarray) -> np.ndarray:
        """Pad at most QUERY_ROWS cells with zero rows to QUERY_ROWS, and append a column of ones."""
        queries = np.zeros((QUERY_ROWS, self._rows.shape[1]), dtype=np.float32)
        queries[: len(cell_features), :-1] = cell_features
        queries[:, -1] = 1
        return queries
