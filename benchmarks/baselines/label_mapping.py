"""Map the classes of a baseline to the candidates of a label space."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ontology.graph import Ontology

Combine = Literal["sum", "max"]


def class_weights(
    classes: Sequence[str], candidates: Sequence[str], ontology: Ontology
) -> np.ndarray:
    """Return the weight of each class for each candidate.

    A class maps to the most specific candidates among itself and its ancestors: with candidates
    "endothelial cell" and "vein endothelial cell", a venous class maps to the second only. A class
    without such candidates maps to its most general descendants among them: "T cell" to CD4 and CD8 T
    cells. Several candidates share the weight equally.

    Returns
    -------
    float32, shape (n_classes, n_candidates); rows sum to one, or to zero for a class without a
    related candidate
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
    """Convert class scores to candidate scores.

    Parameters
    ----------
    scores: probabilities for `sum`, any scores for `max`, shape
        (n_cells, n_classes)
    weights: from `class_weights`
    combine: how scores of the classes of a candidate are combined

    Returns
    -------
    float32, shape (n_cells, n_candidates); -inf for a candidate without a class
    """
    joined = np.full((len(scores), weights.shape[1]), -np.inf, dtype=np.float32)
    if combine == "sum":
        reached = weights.any(axis=0)
        joined[:, reached] = scores @ weights[:, reached]
        return joined
    for row, column in zip(*np.nonzero(weights), strict=True):
        np.maximum(joined[:, column], scores[:, row], out=joined[:, column])
    return joined
