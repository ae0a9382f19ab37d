"""Accuracy of predictions in a label space, and means over studies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from langcell.nn import metrics
from ontology.candidates import ROOT
from ontology.graph import Ontology

_TOP = 5


@dataclass(frozen=True, kw_only=True)
class SpaceScore:
    """Accuracy of the predictions for one file in one label space.

    Attributes
    ----------
    accuracy, top5: the true term is predicted, or among the five best
    macro_f1, macro_f1_all: over types with at least 10 cells, and over all types of the file
    descendant: the true term or a subtype is predicted
    hierarchical_f1: overlap of ancestor sets
    distance: mean distance of truth and prediction in edges of the ontology
    """

    accuracy: float
    macro_f1: float
    macro_f1_all: float
    top5: float
    descendant: float
    hierarchical_f1: float
    distance: float


FIGURES = tuple(field.name for field in fields(SpaceScore))


def score_space(
    truth_ids: np.ndarray, scores: np.ndarray, candidates: Sequence[str], ontology: Ontology
) -> SpaceScore:
    """Score the predictions with the highest scores.

    Parameters
    ----------
    truth_ids: term id of each cell, shape (n_cells,)
    scores: higher is more likely, shape (n_cells, n_candidates); ties go to the first candidate
    candidates: term id of each column
    ontology: ontology with all these terms
    """
    places = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
    rows = np.array([ontology.index[term_id] for term_id in candidates])
    ranked = rows[places]  # (n_cells, 5)
    truth = np.array([ontology.index[term_id] for term_id in truth_ids])
    predicted = ranked[:, 0]  # (n_cells,)
    root = ontology.index[ROOT]

    def distance(first: int, second: int) -> float:
        return ontology.distance(ontology.ids[first], ontology.ids[second])

    return SpaceScore(
        accuracy=metrics.accuracy(truth, predicted),
        macro_f1=metrics.macro_f1(truth, predicted),
        macro_f1_all=metrics.macro_f1(truth, predicted, min_cells=1),
        top5=metrics.top_k_accuracy(truth, ranked, k=_TOP),
        descendant=metrics.descendant_accuracy(truth, predicted, ontology.closure),
        hierarchical_f1=metrics.hierarchical_f1(truth, predicted, ontology.closure, root=root).f1,
        distance=metrics.ontology_distance(truth, predicted, distance),
    )


def by_study(files: Mapping[str, Sequence[SpaceScore]]) -> pd.DataFrame:
    """Average the files of each study; return one row per study and one column per score."""
    return pd.DataFrame(
        {
            study: pd.DataFrame([asdict(each) for each in scores]).mean()
            for study, scores in files.items()
        }
    ).T


def mean_and_interval(
    values: np.ndarray, *, weights: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean over studies and its 95 % bootstrap interval.

    Parameters
    ----------
    values: value of each study, shape (n_studies,)
    weights: weight of each study, such as its number of rows; equal by default
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(values), (2000, len(values)))
    means = (values * weights)[draws].sum(axis=1) / weights[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.average(values, weights=weights)), float(low), float(high)
