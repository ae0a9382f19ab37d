"""Zero-shot scoring of the released LangCell code, to reproduce its numbers."""

import numpy as np

from langcell.model.embedder import Embedder
from zeroshot.labels.candidates import CandidateSet

FUSED, OFFICIAL = SCORINGS = ("fused", "official")
TEMPERATURE = 0.05  # of cosine similarities, as in the release
ALPHA = 0.1  # as in the notebook of the release


def official_scores(
    similarity_log_probabilities: np.ndarray,
    match_log_probabilities: np.ndarray,
    *,
    alpha: float = ALPHA,
) -> np.ndarray:
    """Return the logarithm of alpha * S + (1 - alpha) * M, float64, shape (n_cells, n_labels).

    S is the softmax of similarities over the labels, M the softmax over the labels of the match
    probabilities (LangCell, Zhao et al. 2024, zero-shot notebook of the release). The scores of a
    cell sum to one. Match probabilities are at most one, so the differences in M shrink as the
    number of labels grows: with alpha = 0.1, the matching head dominates for ten labels and the
    similarity for a hundred.

    Parameters
    ----------
    similarity_log_probabilities: log-softmax of similarity / TEMPERATURE over all labels
    match_log_probabilities: log-probability that each label matches the cell, same shape
    alpha: weight of the similarity

    Examples
    --------
    >>> similarities, matches = np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]])
    >>> np.exp(official_scores(similarities, matches, alpha=0.5)).tolist()
    [[0.625, 0.375]]
    """
    matched = np.exp(match_log_probabilities.astype(np.float64))
    matched = np.exp(matched - matched.max(axis=1, keepdims=True))
    matched /= matched.sum(axis=1, keepdims=True)
    similar = np.exp(similarity_log_probabilities.astype(np.float64))
    scores: np.ndarray = np.log(alpha * similar + (1 - alpha) * matched)
    return scores


def label_features(candidates: CandidateSet, model: Embedder) -> np.ndarray:
    """Embed labels in float32; return unit norm, shape (n_labels, embedding_dim)."""
    return model.project_pooled(model.pool_texts(candidates.texts))
