"""False discovery rates from histograms of scores, for any number of cells."""

import numpy as np

from zeroshot.retrieval.background import DECIMALS, NullDistribution

_LOWEST, _HIGHEST = -60, 60  # scores are clipped to this range
_PER_UNIT = 10**DECIMALS


class ScoreHistogram:
    """Histogram of the scores of each query; memory does not depend on the number of cells.

    Parameters
    ----------
    n_queries: number of queries
    """

    def __init__(self, n_queries: int) -> None:
        self._counts = np.zeros((n_queries, (_HIGHEST - _LOWEST) * _PER_UNIT + 1), dtype=np.int64)

    def add(self, scores: np.ndarray) -> None:
        """Count the scores of more cells, shape (n_cells, n_queries)."""
        for query, bins in enumerate(_bins(scores).T):
            self._counts[query] += np.bincount(bins, minlength=self._counts.shape[1])

    def false_discovery_rates(
        self, query: int, scores: np.ndarray, null: NullDistribution
    ) -> np.ndarray:
        """Return Benjamini-Hochberg adjusted p-values of scores, over all counted cells.

        Equal to `scipy.stats.false_discovery_control` (Benjamini and Hochberg 1995).

        Parameters
        ----------
        query: index of the query
        scores: scores of cells, shape (n_cells,)
        null: null distribution, for the p-values
        """
        return self._adjusted(query, null)[_bins(scores)]

    def n_hits(self, query: int, null: NullDistribution, *, max_fdr: float, floor: float) -> int:
        """Count cells with a false discovery rate up to `max_fdr` and a score of at least `floor`."""
        is_hit = self._adjusted(query, null) <= max_fdr
        is_hit[: _bins(np.array(floor))] = False
        return int(self._counts[query, is_hit].sum())

    def _adjusted(self, query: int, null: NullDistribution) -> np.ndarray:
        """Return the false discovery rate of each bin."""
        counts = self._counts[query]
        at_least = counts[::-1].cumsum()[::-1]  # cells with this score or a higher one
        grid = np.round(_LOWEST + np.arange(len(counts)) / _PER_UNIT, DECIMALS)
        rates = null.p_values(grid) * counts.sum() / np.maximum(at_least, 1)
        # Rates must not increase with the score, over the scores that cells have.
        return np.minimum(np.minimum.accumulate(np.where(counts > 0, rates, np.inf)), 1)


def _bins(scores: np.ndarray) -> np.ndarray:
    bins = np.rint((scores - _LOWEST) * _PER_UNIT).astype(np.int64)
    return np.clip(bins, 0, (_HIGHEST - _LOWEST) * _PER_UNIT)
