"""Score queries for all types of the ontology in a labelled file, and decisions by threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.data.studies import LabelledFile
from benchmarks.scoring.model_scores import file_features
from langcell.model.langcell import LangCell
from ontology.graph import Ontology
from zeroshot.retrieval.background import Background, NullDistribution

LEVEL = 0.05  # false discovery rate
_COLUMNS = 256  # queries per block of p-value adjustment


@dataclass(frozen=True, kw_only=True, eq=False)
class FileScores:
    """Scores of all queries in the cells of one file.

    Attributes
    ----------
    labels: row of each cell's own type in the background, shape (n_cells,)
    present, absent: columns of types that the file has, and lacks
    is_right, is_known: cells that are correct, or judged, for each present type, (n_cells, n_present)
    scores, cosine: shape (n_cells, n_queries)
    eligible: scores of cells with a low enough false discovery rate, -inf elsewhere
    """

    file: LabelledFile
    labels: np.ndarray
    present: np.ndarray
    absent: np.ndarray
    is_right: np.ndarray
    is_known: np.ndarray
    scores: np.ndarray
    cosine: np.ndarray
    eligible: np.ndarray


def right_cells(
    closure: sparse.csr_matrix, labels: np.ndarray, types: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells are correct for each type, and which can be judged.

    Cells of a type or its subtypes are correct. Cells labelled with an ancestor may be, and are not
    judged.

    Parameters
    ----------
    closure: ancestor closure of the ontology, with rows and columns as in `labels` and `types`
    labels: of the cells, shape (n_cells,)
    types: shape (n_types,)

    Returns
    -------
    is_right, is_known, shape (n_cells, n_types) each
    """
    is_right = closure[labels][:, types].toarray()
    is_coarser = closure[types][:, labels].toarray().T & ~is_right
    return is_right, ~is_coarser


def score_file(
    file: LabelledFile,
    model: LangCell,
    background: Background,
    null: NullDistribution,
    ontology: Ontology,
) -> FileScores:
    """Query a file for every type of the ontology."""
    features = file_features(model, file)
    n_types = len(background.ids)
    column = {term_id: place for place, term_id in enumerate(background.ids)}
    closure = ontology.closure_of(background.ids)
    labels = np.array([column.get(each, -1) for each in file.truth_ids])
    features, labels = features[labels >= 0], labels[labels >= 0]
    present = np.unique(labels)
    is_related = np.asarray((closure + closure.T)[present].sum(axis=0)).ravel() > 0
    is_right, is_known = right_cells(closure, labels, present)
    scores = background.scores(features, background.features, np.arange(n_types))
    eligible = np.full(scores.shape, -np.inf, dtype=np.float32)
    for first in range(0, n_types, _COLUMNS):
        part = slice(first, first + _COLUMNS)
        fdr = false_discovery_control(null.p_values(scores[:, part]), axis=0)
        eligible[:, part] = np.where(fdr <= LEVEL, scores[:, part], -np.inf)
    return FileScores(
        file=file,
        labels=labels,
        present=present,
        absent=np.flatnonzero(~is_related),
        is_right=is_right,
        is_known=is_known,
        scores=scores.astype(np.float32),
        cosine=features @ background.features.T,
        eligible=eligible,
    )


def decide(of: FileScores, values: np.ndarray, thresholds: np.ndarray) -> pd.DataFrame:
    """Score the hits at each threshold; return one row per threshold.

    `precision` is the mean over types with hits; `detected` the share of types with a correct hit;
    `absent_none` the share of absent types without a hit; `absent_fpr` the share of pairs of cell and
    absent type that are hits.
    """
    present, absent = values[:, of.present], values[:, of.absent]
    highest, ascending = absent.max(axis=0), np.sort(absent, axis=None)
    n_right = (of.is_right & of.is_known).sum(axis=0)  # (n_present,)
    rows = []
    for threshold in thresholds:
        hits = (present >= threshold) & of.is_known
        right, n_hits = (hits & of.is_right).sum(axis=0), hits.sum(axis=0)
        some = n_hits > 0
        below = np.searchsorted(ascending, threshold)
        rows.append(
            {
                "precision": float((right[some] / n_hits[some]).mean()) if some.any() else 0.0,
                "recall": float((right / n_right).mean()),
                "f1": float((2 * right / (n_hits + n_right)).mean()),
                "detected": float((right > 0).mean()),
                "absent_none": float((highest < threshold).mean()),
                "absent_fpr": 1 - below / len(ascending),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(thresholds, name="threshold"))


def by_threshold(
    files: Sequence[FileScores], values: Sequence[np.ndarray], thresholds: np.ndarray
) -> pd.DataFrame:
    """Return the scores of each study at each threshold; index (study, threshold)."""
    parts = [
        pd.concat({of.file.study: decide(of, own, thresholds)}, names=["study"])
        for of, own in zip(files, values, strict=True)
    ]
    return pd.concat(parts).groupby(level=["study", "threshold"]).mean()


def choose(figures: pd.DataFrame, answered: float) -> float:
    """Return the threshold with the best mean F1 among those that limit hits of absent types."""
    means = figures.groupby("threshold").mean()
    allowed = means[means["absent_none"] >= 1 - answered]
    return float((allowed if len(allowed) else means.tail(1))["f1"].idxmax())


def without_own_study(figures: pd.DataFrame, answered: float) -> pd.DataFrame:
    """Return the scores of each study at the threshold chosen on the other studies."""
    rows = {}
    for study in figures.index.unique("study"):
        threshold = choose(figures.drop(study, level="study"), answered)
        rows[study] = {"threshold": threshold, **figures.loc[(study, threshold)]}
    return pd.DataFrame(rows).T


def rankings(files: Sequence[FileScores]) -> pd.DataFrame:
    """Return AUROC and average precision, averaged over present types, one row per study."""
    rows = []
    for of in files:
        values: dict[str, list[float]] = {}
        for place, column in enumerate(of.present):
            known = of.is_known[:, place]
            right = of.is_right[known, place]
            if right.all():
                continue
            for name, scores in (("score", of.scores), ("cosine", of.cosine)):
                some = scores[known, column]
                values.setdefault(f"{name} auroc", []).append(roc_auc_score(right, some))
                values.setdefault(f"{name} ap", []).append(average_precision_score(right, some))
                values.setdefault("chance ap", []).append(float(right.mean()))
        rows.append({"study": of.file.study, **{k: float(np.mean(v)) for k, v in values.items()}})
    return pd.DataFrame(rows).groupby("study").mean()
