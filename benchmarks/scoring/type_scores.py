"""Accuracy of each type by itself, so that all types weigh the same, beside that of chance."""

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
    """Score the calls that the highest scores make, type by type.

    Parameters
    ----------
    truth_ids: term id of each cell, shape (n_cells,)
    scores: higher is likelier, shape (n_cells, n_candidates); of equal ones the first is called
    candidates: term id of each column
    ontology: holds all of them

    Returns
    -------
    DataFrame
        A row a type (index: term id). `accuracy`: the very term is called; `top5`: it is among the
        five best; `descendant`: it or a subtype of it is called; each as the share of the type's
        cells, and as `chance_...` for calls drawn evenly from the candidates.
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
