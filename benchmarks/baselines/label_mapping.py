"""From the classes that a baseline was trained on to the candidates of a label space."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ontology.graph import Ontology

Combine = Literal["sum", "max"]


def class_weights(
    classes: Sequence[str], candidates: Sequence[str], ontology: Ontology
) -> np.ndarray:
    """Say which share of each class speaks for each candidate.

    A class speaks for the most specific candidates at or above it: among "endothelial cell" and
    "vein endothelial cell" a venous class speaks for the second alone. A class that is coarser than
    the candidates speaks for the uppermost ones below it: a "T cell" for CD4 and CD8 T cells. Where
    there are several, they share it equally.

    Returns
    -------
    float32, shape (n_classes, n_candidates); a row sums to one, or to zero for a class that is
    related to no candidate
    """
    place = {term_id: column for column, term_id in enumerate(candidates)}
    weights = np.zeros((len(classes), len(candidates)), dtype=np.float32)
    for row, term_id in enumerate(classes):
        above = place.keys() & (ontology.ancestors(term_id) | {term_id})
        if above:
            covered = frozenset().union(*(ontology.ancestors(each) for each in above))
            nearest = above - covered
        else:
            below = place.keys() & ontology.descendants(term_id)
            nearest = {each for each in below if not ontology.ancestors(each) & below}
        for each in nearest:
            weights[row, place[each]] = 1 / len(nearest)
    return weights


def candidate_scores(scores: np.ndarray, weights: np.ndarray, combine: Combine) -> np.ndarray:
    """Bring scores of classes to candidates.

    Parameters
    ----------
    scores: probabilities for `sum`, anything that orders classes for `max`, shape
        (n_cells, n_classes)
    weights: from `class_weights`
    combine: how the classes of one candidate are joined

    Returns
    -------
    float32, shape (n_cells, n_candidates); -inf for a candidate that no class speaks for
    """
    joined = np.full((len(scores), weights.shape[1]), -np.inf, dtype=np.float32)
    if combine == "sum":
        reached = weights.any(axis=0)
        joined[:, reached] = scores @ weights[:, reached]
        return joined
    for row, column in zip(*np.nonzero(weights), strict=True):
        np.maximum(joined[:, column], scores[:, row], out=joined[:, column])
    return joined
