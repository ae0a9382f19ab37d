"""Out-of-distribution score of a model: distance to the nearest of its reference cells."""

import numpy as np

from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.runtime.threads import over_slices

# In matrix products of one shape, the result of a cell does not depend on the other cells.
_QUERY_ROWS = 256
_TYPICAL, _FAR = 50, 1  # percentiles of the similarity between nearest reference cells


class OutlierScore:
    """Out-of-distribution score by the nearest training cell (Sun et al. 2022, ICML, deep kNN).

    The scale comes from the distance of each reference cell to the nearest other one: 0 is the
    median, 1 the most distant 1% of cells. Scores can be below 0 or above 1. The score does not
    depend on the candidate labels.

    Parameters
    ----------
    reference: training cells stored with the model

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cells = rng.normal(size=(50, 8)).astype(np.float32)
    >>> cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    >>> scores = OutlierScore(ReferenceCells(features=cells))(-cells)
    >>> scores.shape
    (50,)
    """

    def __init__(self, reference: ReferenceCells) -> None:
        features = reference.features.astype(np.float32)
        self._features = features / np.linalg.norm(features, axis=1, keepdims=True)
        nearest = self._nearest(self._features, exclude_self=True)
        self._typical, self._far = np.percentile(nearest, [_TYPICAL, _FAR])

    def __call__(self, cell_features: np.ndarray) -> np.ndarray:
        """Score cells.

        Parameters
        ----------
        cell_features: float32, unit norm, shape (n_cells, embedding_dim)

        Returns
        -------
        float32, shape (n_cells,), rounded to three decimals
        """
        span = max(self._typical - self._far, 1e-6)
        nearest = self._nearest(cell_features)
        return np.round((self._typical - nearest) / span, 3).astype(np.float32)

    def _nearest(self, features: np.ndarray, *, exclude_self: bool = False) -> np.ndarray:
        """Return the similarity of the nearest reference cell, float64, shape (n_cells,)."""
        nearest = np.empty(len(features), dtype=np.float64)

        def search_block(start: int, stop: int) -> None:
            queries = np.zeros((_QUERY_ROWS, features.shape[1]), dtype=np.float32)
            queries[: stop - start] = features[start:stop]
            similarities = (queries @ self._features.T)[: stop - start]
            if exclude_self:
                similarities[np.arange(stop - start), np.arange(start, stop)] = -np.inf
            nearest[start:stop] = similarities.max(axis=1)

        over_slices(search_block, len(features), size=_QUERY_ROWS)
        return nearest
