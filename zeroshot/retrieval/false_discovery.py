"""Counts of scores on a grid, from which the false discovery rate of any number of cells follows."""

import numpy as np

from zeroshot.retrieval.background import DECIMALS, NullDistribution

_LOWEST, _HIGHEST = -60, 60  # what lies beyond counts as the last of the grid
_PER_UNIT = 10**DECIMALS


class ScoreHistogram:
    """How many cells have each score, for each query; memory does not depend on how many.

    Parameters
    ----------
    n_queries: columns of the scores
    """

    def __init__(self, n_queries: int) -> None:
        self._counts = np.zeros((n_queries, (_HIGHEST - _LOWEST) * _PER_UNIT + 1), dtype=np.int64)

    def add(self, scores: np.ndarray) -> None:
        """Count the scores of more cells, shape (n_cells, n_queries)."""
        for query, places in enumerate(_places(scores).T):
            self._counts[query] += np.bincount(places, minlength=self._counts.shape[1])

    def false_discovery_rates(
        self, query: int, scores: np.ndarray, null: NullDistribution
    ) -> np.ndarray:
        """Return the lowest false discovery rate at which cells of these scores are hits.

        Benjamini and Hochberg 1995, over all cells that were counted; equal to
        `scipy.stats.false_discovery_control` of their p-values.

        Parameters
        ----------
        query: column of the scores
        scores: shape (n_cells,)
        null: gives the p-values
        """
        return self._adjusted(query, null)[_places(scores)]

    def n_hits(self, query: int, null: NullDistribution, *, level: float, floor: float) -> int:
        """Count the cells with a false discovery rate up to `level` that score at least `floor`."""
        is_hit = self._adjusted(query, null) <= level
        is_hit[: _places(np.array(floor))] = False
        return int(self._counts[query, is_hit].sum())

    def _adjusted(self, query: int, null: NullDistribution) -> np.ndarray:
        """Return the false discovery rate of each score of the grid."""
        counts = self._counts[query]
        at_least = counts[::-1].cumsum()[::-1]  # cells with this score or a higher one
        grid = np.round(_LOWEST + np.arange(len(counts)) / _PER_UNIT, DECIMALS)
        rates = null.p_values(grid) * counts.sum() / np.maximum(at_least, 1)
        # A lower score that some cell has lends its rate to all higher ones.
        return np.minimum(np.minimum.accumulate(np.where(counts > 0, rates, np.inf)), 1)


def _places(scores: np.ndarray) -> np.ndarray:
    places = np.rint((scores - _LOWEST) * _PER_UNIT).astype(np.int64)
    return np.clip(places, 0, (_HIGHEST - _LOWEST) * _PER_UNIT)
