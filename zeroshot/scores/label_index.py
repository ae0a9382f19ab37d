"""Which labels lie nearest to a cell: an exact FAISS index over label text features."""

from collections.abc import Sequence

import faiss
import numpy as np

from langcell.runtime.threads import over_slices

# Every query has this many rows, padded with zeros: matrix products of one shape give a row the
# same bits whatever the other rows hold. In another row a cell's differ by rounding, as BLAS sums the
# rows of a tile in different orders.
QUERY_ROWS = 256


class LabelIndex:
    """Labels in the common space, searched exactly by inner product.

    Parameters
    ----------
    features: text features, float32, unit norm, shape (n_labels, embedding_dim)
    ids: one identifier a label
    offsets: subtracted from the similarity of each label, shape (n_labels,); None for none (see
        `langcell.checkpoints.reference_cells.ReferenceCells.label_offsets`)

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
        # A further dimension in which every query is 1: the search subtracts the offsets itself.
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
        k: labels wanted; all of them when there are fewer

        Returns
        -------
        Cosine similarities less offsets, float32, and rows of the index, int64, both (n_cells, k), best first;
        labels that tie come in the order of the index.
        """
        k = min(k, len(self))
        similarities = np.empty((len(cell_features), k), dtype=np.float32)
        labels = np.empty((len(cell_features), k), dtype=np.int64)
        for start in range(0, len(cell_features), QUERY_ROWS):
            rows = slice(start, min(start + QUERY_ROWS, len(cell_features)))
            found, places = self._flat.search(self._queries(cell_features[rows]), k)
            n = rows.stop - rows.start
            order = np.lexsort((places[:n], -found[:n]), axis=1)
            similarities[rows] = np.take_along_axis(found[:n], order, axis=1)
            labels[rows] = np.take_along_axis(places[:n], order, axis=1)
        return similarities, labels

    def log_probabilities(self, cell_features: np.ndarray, scale: float) -> np.ndarray:
        """Return the log-softmax over all labels of scale * (similarity less offset).

        Returns
        -------
        float32, shape (n_cells, n_labels); hand in a block of cells at a time
        """
        found = np.empty((len(cell_features), len(self)), dtype=np.float32)

        def score_some(start: int, stop: int) -> None:
            similarities = self._queries(cell_features[start:stop]) @ self._rows.T
            similarities -= similarities.max(axis=1, keepdims=True)  # (rows, n_labels)
            similarities *= np.float32(scale)
            # Terms in single precision, whose errors are of either sign, and their sum in double.
            normaliser = np.log(np.exp(similarities).sum(axis=1, dtype=np.float64))
            similarities -= normaliser[:, None].astype(np.float32)
            found[start:stop] = similarities[: stop - start]

        over_slices(score_some, len(found), size=QUERY_ROWS)
        return found

    def _queries(self, cell_features: np.ndarray) -> np.ndarray:
        """Fill up the rows of at most QUERY_ROWS cells, and put a 1 behind each."""
        queries = np.zeros((QUERY_ROWS, self._rows.shape[1]), dtype=np.float32)
        queries[: len(cell_features), :-1] = cell_features
        queries[:, -1] = 1
        return queries
