"""Accuracy per type, so that all types have the same weight, with chance level."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from langcell.nn.metrics import is_descendant
from ontology.graph import Ontology

FIGURES = ("accuracy", "top5", "descendant")
_TOP = 5


def score_types(
    truth_ids: np.ndarray, scores: np.ndarray, candidates: Sequence[str], ontology: Ontology
) -> pd.DataFrame:
    """Score the predictions with the highest scores for each type.

    Parameters
    ----------
    truth_ids: term id of each cell, shape (n_cells,)
    scores: higher is more likely, shape (n_cells, n_candidates); ties go to the first candidate
    candidates: term id of each column
    ontology: ontology with all these terms

    Returns
    -------
    DataFrame
        One row per type (index: term id). `accuracy`: the type is predicted; `top5`: it is among the
        five best; `descendant`: it or a subtype is predicted; each as the share of the type's cells,
        and as `chance_...` for uniformly random predictions.
    """
    rows = np.array([ontology.index[term_id] for term_id in candidates])
    ranked = rows[np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]]  # (n_cells, 5)
    truth = np.array([ontology.index[term_id] for term_id in truth_ids])
    right = pd.DataFrame(
        {
            "accuracy": ranked[:, 0] == truth,
            "top5": (ranked == truth[:, None]).any(axis=1),
            "descendant": is_descendant(truth, ranked[:, 0], ontology.closure),
        }
    ).astype(float)
    found = right.groupby(truth_ids.astype(str)).mean()
    n = len(candidates)
    types = [ontology.index[term_id] for term_id in found.index]
    is_candidate = np.isin(types, rows).astype(float)
    n_below = np.asarray(ontology.closure[rows][:, types].sum(axis=0)).ravel()
    return found.assign(
        chance_accuracy=is_candidate / n,
        chance_top5=is_candidate * min(_TOP, n) / n,
        chance_descendant=n_below / n,
    )
