"""Probabilities of the best candidates of each cell."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from zeroshot.scores.label_index import LabelIndex

DECIMALS = 5  # of all written scores
RETRIEVED = 64  # nearest candidates, of which the most probable are kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Log-probabilities of the best candidates of each cell, best first.

    Probabilities are normalised over all candidates, so the k best of a cell sum to less than one if
    there are more than k candidates.

    Attributes
    ----------
    candidate_ids: identifiers of all candidates; `candidates` holds indices into it
    candidates: best candidates of each cell, int32, shape (n_cells, k)
    log_probabilities: float32, shape (n_cells, k), descending in each row
    """

    candidate_ids: tuple[str, ...]
    candidates: np.ndarray
    log_probabilities: np.ndarray

    def __post_init__(self) -> None:
        if self.candidates.shape != self.log_probabilities.shape or self.candidates.ndim != 2:
            raise ValueError(
                "candidates and log_probabilities must both have shape (n_cells, k). Got "
                f"{self.candidates.shape} and {self.log_probabilities.shape}."
            )

    @property
    def best(self) -> np.ndarray:
        """Best candidate of each cell, int32, shape (n_cells,)."""
        return self.candidates[:, 0]

    @property
    def margin(self) -> np.ndarray:
        """Probability of the best candidate minus that of the runner-up, shape (n_cells,)."""
        probabilities = np.exp(self.log_probabilities)
        runner_up = probabilities[:, 1] if probabilities.shape[1] > 1 else np.float32(0)
        return rounded(probabilities[:, 0] - runner_up)

    def to_csr(self) -> sparse.csr_matrix:
        """Return probabilities, float32, shape (n_cells, n_candidates), k entries per row.

        Candidates that are not among the k best of a cell are not stored and read as 0.
        """
        n_cells, k = self.candidates.shape
        order = np.argsort(self.candidates, axis=1)
        probabilities = rounded(np.exp(self.log_probabilities))
        return sparse.csr_matrix(
            (
                np.take_along_axis(probabilities, order, axis=1).ravel(),
                np.take_along_axis(self.candidates, order, axis=1).ravel(),
                np.arange(0, n_cells * k + 1, k),
            ),
            shape=(n_cells, len(self.candidate_ids)),
        )


def rounded(values: np.ndarray) -> np.ndarray:
    """Round scores as they are written: float32, five decimals."""
    return np.round(values.astype(np.float64), DECIMALS).astype(np.float32)


def best_scores(
    cell_features: np.ndarray,
    index: LabelIndex,
    log_probabilities: np.ndarray,
    *,
    top_k: int,
    retrieved: int = RETRIEVED,
) -> Scores:
    """Return the most probable of the candidates that are nearest to each cell.

    Parameters
    ----------
    cell_features: float32, unit norm, shape (n_cells, embedding_dim)
    index: the candidate labels
    log_probabilities: of all candidates, float32, shape (n_cells, n_candidates): log-softmax of
        scale * similarity (Zhao et al. 2024, LangCell, equation for zero-shot annotation; the scale
        is the learned inverse temperature), possibly after
        `zeroshot.labels.subtypes.Subtypes.pass_down`
    top_k: number of candidates to keep for each cell
    retrieved: number of nearest candidates to choose them from
    """
    _, labels = index.search(cell_features, max(top_k, retrieved))  # (n_cells, k')
    found = np.take_along_axis(log_probabilities, labels, axis=1)
    # Sort again: the search rounds differently, and `pass_down` may have changed the order.
    order = np.lexsort((labels, -found), axis=1)[:, :top_k]
    return Scores(
        candidate_ids=index.ids,
        candidates=np.take_along_axis(labels, order, axis=1).astype(np.int32),
        log_probabilities=np.take_along_axis(found, order, axis=1),
    )


def fuse(scores: Scores, match_log_probabilities: np.ndarray, *, weight: float = 1.0) -> Scores:
    """Rerank the first candidates of each cell by the match probability of each.

    The log-probability of a candidate becomes log p(retrieval) + weight * log p(match), normalised
    so that the total probability of the reranked candidates stays the same. Neither term depends on
    the number of candidates, unlike the published sum of softmaxes, whose balance shifts with it.

    Parameters
    ----------
    scores: from `best_scores`
    match_log_probabilities: of the first r candidates of each cell, shape (n_cells, r)
    weight: of the match log-probability; 0 changes nothing
    """
    r = match_log_probabilities.shape[1]
    first = scores.log_probabilities[:, :r].astype(np.float64)
    fused = first + weight * match_log_probabilities.astype(np.float64)  # (n_cells, r)
    before, after = (np.logaddexp.reduce(each, axis=1, keepdims=True) for each in (first, fused))
    fused += before - after
    log_probabilities = scores.log_probabilities.copy()
    log_probabilities[:, :r] = fused
    # A reranked candidate stays the best: their total is unchanged, so one is at least their mean.
    order = np.argsort(-log_probabilities, axis=1, kind="stable")
    return Scores(
        candidate_ids=scores.candidate_ids,
        candidates=np.take_along_axis(scores.candidates, order, axis=1),
        log_probabilities=np.take_along_axis(log_probabilities, order, axis=1),
    )
