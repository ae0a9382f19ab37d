"""Score queries against all other descriptions, and compute p-values from reference cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.labels.candidates import all_candidates, candidate_features
from zeroshot.labels.queries import Query

DECIMALS = 2  # of scores, so that a histogram can count any number of cells
_TAIL = 0.999  # quantile at which the exponential tail of the null distribution starts
_GRID = 20_000  # quantiles of the empirical null distribution


class Background:
    """Scores queries against the descriptions of all cell types.

    The score of a query in a cell is its log-odds: scale * similarity minus the log of the sum of
    exp(scale * similarity) over all unrelated descriptions. Related are the query's term, its
    ancestors and its descendants, which can be true of the same cell. Free text has the related
    terms of the nearest description.

    Parameters
    ----------
    model: model that embeds cells and descriptions
    ontology: ontology of the described cell types
    """

    def __init__(self, model: LangCell, ontology: Ontology) -> None:
        candidates = all_candidates(ontology)
        self.ids, self.names, self.texts = candidates.ids, candidates.names, candidates.texts
        self.features = candidate_features(candidates, model)
        self._scale = model.scale.item()
        self._row = {term_id: row for row, term_id in enumerate(candidates.ids)}
        closure = ontology.closure_of(candidates.ids)
        self._related = ((closure + closure.T) > 0).astype(np.float64).tocsr()

    def nearest(self, queries: Sequence[Query], features: np.ndarray) -> np.ndarray:
        """Return the row of each query's own or nearest description, int, shape (n_queries,)."""
        nearest = (features @ self.features.T).argmax(axis=1)
        own = [self._row.get(query.term_id, -1) for query in queries]
        return np.where(np.array(own) >= 0, own, nearest)

    def scores(self, cells: np.ndarray, queries: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """Return the scores of queries in cells, float64, rounded to `DECIMALS`.

        Parameters
        ----------
        cells: features, float32, shape (n_cells, embedding_dim)
        queries: features, float32, shape (n_queries, embedding_dim)
        nearest: from `nearest`

        Returns
        -------
        Shape (n_cells, n_queries)
        """
        logits = self._scale * (cells @ self.features.T).astype(np.float64)
        own = self._scale * (cells @ queries.T).astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        shares = np.exp(logits - top)  # (n_cells, n_descriptions)
        total = shares.sum(axis=1, keepdims=True)
        others = total - shares @ self._related[nearest].T  # (n_cells, n_queries)
        # Guard against rounding if related terms make up the whole sum.
        others = np.maximum(others, 1e-12 * total)
        return np.round(own - top - np.log(others), DECIMALS)

    def null(self, cells: np.ndarray) -> "NullDistribution":
        """Return the distribution of scores of descriptions in unrelated cells.

        The pairs are all cells and descriptions where the description is not related to the best
        description of the cell.

        Parameters
        ----------
        cells: features of diverse cells, float32, shape (n_cells, embedding_dim)
        """
        everything = np.arange(len(self.features))
        parts = []
        for first in range(0, len(cells), 256):
            batch = cells[first : first + 256]
            scores = self.scores(batch, self.features, everything)
            best = (batch @ self.features.T).argmax(axis=1)
            is_related = self._related[best].toarray() > 0
            parts.append(scores[~is_related].astype(np.float32))
        return NullDistribution.of(np.concatenate(parts))


@dataclass(frozen=True, kw_only=True, eq=False)
class NullDistribution:
    """Distribution of scores of descriptions in unrelated cells.

    Attributes
    ----------
    quantiles: quantiles of the scores, evenly spaced from 0 to `_TAIL`
    rate: rate of the exponential distribution above the last quantile
    """

    quantiles: np.ndarray
    rate: float

    @classmethod
    def of(cls, scores: np.ndarray) -> "NullDistribution":
        """Fit to scores, shape (n_pairs,)."""
        quantiles = np.quantile(scores, np.linspace(0, _TAIL, _GRID))
        excess = scores[scores > quantiles[-1]] - quantiles[-1]
        mean = float(excess.mean()) if len(excess) else 1.0
        return cls(quantiles=quantiles, rate=1 / max(mean, 1e-3))

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return the fraction of pairs with at least this score, in the shape of `scores`.

        The upper tail, where pairs are few, is an exponential distribution (peaks over threshold;
        Pickands 1975).
        """
        below = np.searchsorted(self.quantiles, scores, side="left")
        empirical = 1 - below * _TAIL / _GRID
        end = self.quantiles[-1]
        tail = (1 - _TAIL) * np.exp(-self.rate * (np.maximum(scores, end) - end))
        return np.where(scores > end, tail, empirical)


def z_values(p_values: np.ndarray) -> np.ndarray:
    """Return the z-scores of one-sided p-values."""
    return norm.isf(p_values)
