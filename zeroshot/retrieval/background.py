"""What a query competes with: all other descriptions in a cell, and cells that are something else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.labels.candidates import all_candidates, candidate_features
from zeroshot.labels.queries import Query

DECIMALS = 2  # of scores: a grid on which any number of cells can be counted
_TAIL = 0.999  # where the empirical null ends and its exponential tail begins
_GRID = 20_000  # quantiles that stand for the null


class Background:
    """Scores queries against the descriptions of all cell types.

    The score of a query in a cell is its log-odds: scale * similarity less the log of the sum of
    exp(scale * similarity) over all descriptions but those of its kin, which are true of the same
    cells: the ancestors and descendants of its term, and the term itself. For free text they are
    those of the nearest description.

    Parameters
    ----------
    model: that embeds cells and descriptions
    ontology: whose cell types are described
    """

    def __init__(self, model: LangCell, ontology: Ontology) -> None:
        candidates = all_candidates(ontology)
        self.ids, self.names, self.texts = candidates.ids, candidates.names, candidates.texts
        self.features = candidate_features(candidates, model)
        self._scale = model.scale.item()
        self._row = {term_id: row for row, term_id in enumerate(candidates.ids)}
        closure = ontology.closure_of(candidates.ids)
        self._kin = ((closure + closure.T) > 0).astype(np.float64).tocsr()

    def nearest(self, queries: Sequence[Query], features: np.ndarray) -> np.ndarray:
        """Return the description that each query is or comes nearest to, int, (n_queries,)."""
        nearest = (features @ self.features.T).argmax(axis=1)
        own = [self._row.get(query.term_id, -1) for query in queries]
        return np.where(np.array(own) >= 0, own, nearest)

    def scores(self, cells: np.ndarray, queries: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """Score queries in cells, float64, rounded to `DECIMALS`.

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
        others = total - shares @ self._kin[nearest].T  # (n_cells, n_queries)
        # What rounding leaves where kin hold all of the sum.
        others = np.maximum(others, 1e-12 * total)
        return np.round(own - top - np.log(others), DECIMALS)

    def null(self, cells: np.ndarray) -> "NullDistribution":
        """Learn how high descriptions score in cells that are something else.

        The pairs are those of every cell and every description that is no kin of the cell's own
        best one.

        Parameters
        ----------
        cells: features of many kinds of cells, float32, shape (n_cells, embedding_dim)
        """
        everything = np.arange(len(self.features))
        parts = []
        for first in range(0, len(cells), 256):
            some = cells[first : first + 256]
            scores = self.scores(some, self.features, everything)
            best = (some @ self.features.T).argmax(axis=1)
            is_kin = self._kin[best].toarray() > 0
            parts.append(scores[~is_kin].astype(np.float32))
        return NullDistribution.of(np.concatenate(parts))


@dataclass(frozen=True, kw_only=True, eq=False)
class NullDistribution:
    """Scores of descriptions in cells that they do not describe.

    Attributes
    ----------
    quantiles: ascending, evenly spaced from 0 to `_TAIL`
    rate: of the exponential distribution above the last of them
    """

    quantiles: np.ndarray
    rate: float

    @classmethod
    def of(cls, scores: np.ndarray) -> "NullDistribution":
        """Learn from scores, shape (n_pairs,)."""
        quantiles = np.quantile(scores, np.linspace(0, _TAIL, _GRID))
        excess = scores[scores > quantiles[-1]] - quantiles[-1]
        mean = float(excess.mean()) if len(excess) else 1.0
        return cls(quantiles=quantiles, rate=1 / max(mean, 1e-3))

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Return the share of pairs that score at least so high, of the shape of `scores`.

        The tail, where pairs are few, is that of an exponential distribution (peaks over a
        threshold; Pickands 1975).
        """
        below = np.searchsorted(self.quantiles, scores, side="left")
        empirical = 1 - below * _TAIL / _GRID
        end = self.quantiles[-1]
        tail = (1 - _TAIL) * np.exp(-self.rate * (np.maximum(scores, end) - end))
        return np.where(scores > end, tail, empirical)


def z_values(p_values: np.ndarray) -> np.ndarray:
    """Return the standard normal deviates that are exceeded with these probabilities."""
    return norm.isf(p_values)
