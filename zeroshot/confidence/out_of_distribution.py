"""How unlike the training cells a cell is: its distance to the nearest of those that travel along."""

import numpy as np

from langcell.checkpoints.reference_cells import ReferenceCells
from langcell.runtime.threads import over_slices

# Products of one shape give a cell the same bits whichever cells stand beside it.
_QUERY_ROWS = 256
_TYPICAL, _FAR = 50, 1  # percentiles of the nearest similarity among training cells


class OutlierScore:
    """Scores cells by their nearest training cell (Sun et al. 2022, ICML, deep nearest neighbours).

    0 is as near as the median training cell is to the others, 1 as far as the loneliest hundredth
    of them; both ends are open. It says nothing of candidates, so that labels do not change it.

    Parameters
    ----------
    reference: training cells of the model

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
        nearest = self._nearest(self._features, without_themselves=True)
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

    def _nearest(self, features: np.ndarray, *, without_themselves: bool = False) -> np.ndarray:
        """Return the similarity of the nearest training cell, float64, shape (n_cells,)."""
        nearest = np.empty(len(features), dtype=np.float64)

        def search_some(start: int, stop: int) -> None:
            queries = np.zeros((_QUERY_ROWS, features.shape[1]), dtype=np.float32)
            queries[: stop - start] = features[start:stop]
            similarities = (queries @ self._features.T)[: stop - start]
            if without_themselves:
                similarities[np.arange(stop - start), np.arange(start, stop)] = -np.inf
            nearest[start:stop] = similarities.max(axis=1)

        over_slices(search_some, len(features), size=_QUERY_ROWS)
        return nearest
