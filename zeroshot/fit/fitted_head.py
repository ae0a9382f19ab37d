"""Evaluate a few-shot head on held-out cells, and calibrate it on them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from langcell.nn import metrics
from langcell.runtime.short_table import ShortTable
from zeroshot.confidence.backoff import terms_by_depth
from zeroshot.confidence.calibration import Calibration
from zeroshot.confidence.term_tree import TermTree
from zeroshot.fit.fit_calibration import LabelledTerms, fit_curve
from zeroshot.fit.fit_head import LabelledCells
from zeroshot.heads.few_shot_head import HELD_OUT, TYPE, FewShotHead

if TYPE_CHECKING:
    import pandas as pd

Folds = Iterable[tuple[np.ndarray, np.ndarray]]  # rows of held-out cells, log-probabilities
_MIN_CALIBRATION_CELLS = 50  # with fewer cells the model's own calibration is used
_MIN_SLOPE = 0.2  # with a lower slope confidence hardly depends on the probability


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedHead(ShortTable):
    """A few-shot head with its metrics on held-out cells.

    Attributes
    ----------
    head: few-shot head
    names: label names, in label order
    as_text: labels of the file that match no cell type and are read as free text
    n_without: number of cells without a label
    held_out: what `accuracy` and `macro_f1` were measured on; '' if there were too few cells
    accuracy, macro_f1: metrics of the most probable label
    majority_accuracy: accuracy of always predicting the most frequent label, on the same cells
    zero_shot_accuracy, zero_shot_macro_f1: metrics without labelled cells; NaN for states and donors
    """

    head: FewShotHead
    names: tuple[str, ...]
    as_text: tuple[str, ...]
    n_without: int
    held_out: str = ""
    accuracy: float = float("nan")
    macro_f1: float = float("nan")
    majority_accuracy: float = float("nan")
    zero_shot_accuracy: float = float("nan")
    zero_shot_macro_f1: float = float("nan")

    def heading(self) -> str:
        """Return what kind of head it is, and how it did on held-out cells."""
        judged = (
            f"accuracy {self.accuracy:.3f}, macro-F1 {self.macro_f1:.3f} on {self.held_out}"
            if self.held_out
            else "too few cells to judge it"
        )
        return f"{self.head.kind} head of {len(self.names)} labels: {judged}"

    def summary(self) -> "pd.DataFrame":
        """Return a row for each label: its key and its labelled cells."""
        import pandas as pd

        return pd.DataFrame(
            {"label": self.names, "key": self.head.keys, "labelled_cells": self.head.n_shots}
        )

    @property
    def is_calibrated(self) -> bool:
        """Whether the head has its own calibration.

        If not, cell types use the calibration of the model, and states and donors have none.
        """
        return self.head.is_calibrated


def evaluate_head(
    fitted: FittedHead,
    labelled: LabelledCells,
    folds: Folds,
    tree: TermTree,
    *,
    group_key: str | None,
) -> FittedHead:
    """Measure a head on held-out cells, and calibrate it on them if there are enough.

    Parameters
    ----------
    fitted: head without metrics
    labelled: labelled cells that it was fitted to
    folds: rows of held-out cells and their log-probabilities
    tree: ontology tree of the labels
    group_key: obs column of the cells' groups
    """
    log_probabilities = np.zeros_like(labelled.texts)
    is_held_out = np.zeros(len(labelled), dtype=bool)
    for rows, found in folds:
        log_probabilities[rows], is_held_out[rows] = found, True
    if not is_held_out.any():
        return fitted
    truth, texts = labelled.labels[is_held_out], labelled.texts[is_held_out].argmax(axis=1)
    predicted = log_probabilities[is_held_out].argmax(axis=1)
    by = f"by {group_key}"
    if labelled.groups is None:
        by = "by cell"
        by += "" if fitted.head.target == TYPE else "; folds may split the cells of a donor"
    measured = replace(
        fitted,
        held_out=f"{is_held_out.sum():,} cells, cross-validated {by}",
        accuracy=float(np.mean(predicted == truth)),
        macro_f1=metrics.macro_f1(truth, predicted, min_cells=1),
        majority_accuracy=metrics.majority_accuracy(truth),
    )
    if fitted.head.target == TYPE:
        measured = replace(
            measured,
            zero_shot_accuracy=float(np.mean(texts == truth)),
            zero_shot_macro_f1=metrics.macro_f1(truth, texts, min_cells=1),
        )
    calibration = _calibrate(
        labelled, log_probabilities, is_held_out, tree, fitted.head.model_sha256
    )
    if calibration is None:
        return measured
    head = replace(measured.head, calibration=calibration)
    return replace(measured, head=head)


def _calibrate(
    labelled: LabelledCells,
    log_probabilities: np.ndarray,
    is_held_out: np.ndarray,
    tree: TermTree,
    model_sha256: str,
) -> Calibration | None:
    """Fit a calibration on held-out cells; None if they are too few or the slope is too low."""
    if is_held_out.sum() < _MIN_CALIBRATION_CELLS:
        return None
    logs = log_probabilities[is_held_out]
    by_depth = terms_by_depth(logs, tree, logs.argmax(axis=1), temperature=1.0)
    # A label, free text included, makes its own term and the ancestors true.
    is_true = tree.lineages.toarray() > 0  # (n_labels, n_terms)
    is_right = is_true[labelled.labels[is_held_out][:, None], np.maximum(by_depth.terms, 0)]
    part = LabelledTerms(
        study="labelled cells",
        probabilities=by_depth.probabilities,
        is_right=is_right & (by_depth.terms >= 0),
    )
    curve = fit_curve([part], temperature=1.0)
    if curve.slope < _MIN_SLOPE:
        return None
    return Calibration(
        all_types=curve,
        given=curve,
        model_sha256=model_sha256,
        fitted_on=HELD_OUT,
    )
