"""A head with how it did on cells that it did not see, from which its calibration is learnt."""

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

Folds = Iterable[tuple[np.ndarray, np.ndarray]]  # rows of cells, and what others say of them
_LEAST_FOR_CALIBRATION = 50  # labelled cells; with fewer that of the model is more to be trusted
_LEAST_SLOPE = 0.2  # with less of it confidence does not depend on the probability


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedHead(ShortTable):
    """A head, and how it did on cells that it did not see.

    Attributes
    ----------
    head: to be written or used
    names: of its labels, in their order
    as_text: labels of the file that name no cell type and are read as words
    n_without: cells of the file without a label
    held_out: what `accuracy` and `macro_f1` were measured on; '' where there were too few cells
    accuracy, macro_f1: of the best label
    majority_accuracy: of always the most frequent label, on the same cells
    zero_shot_accuracy, zero_shot_macro_f1: the same without any labelled cells; of cell types alone
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
        """Tell whether a calibration was learnt of the head.

        Else that of the model without it stands in for cell types, and none for states and donors.
        """
        return self.head.is_calibrated


def judge_head(
    fitted: FittedHead, shots: LabelledCells, folds: Folds, tree: TermTree, *, group_key: str | None
) -> FittedHead:
    """Measure a head on cells held out, and calibrate it on them where they are enough.

    Parameters
    ----------
    fitted: a head that is not judged yet
    shots: that it was fitted to
    folds: rows of cells and their log-probabilities by heads that did not see them
    tree: of the labels
    group_key: name of the column that the shots' groups are from
    """
    log_probabilities = np.zeros_like(shots.texts)
    judged = np.zeros(len(shots), dtype=bool)
    for rows, found in folds:
        log_probabilities[rows], judged[rows] = found, True
    if not judged.any():
        return fitted
    truth, texts = shots.labels[judged], shots.texts[judged].argmax(axis=1)
    called = log_probabilities[judged].argmax(axis=1)
    by = f"values of {group_key} held out"
    if shots.groups is None:
        by = "cells held out"
        by += "" if fitted.head.target == TYPE else "; those of one donor may stand on both sides"
    measured = replace(
        fitted,
        held_out=f"{judged.sum():,} cells in turns ({by})",
        accuracy=float(np.mean(called == truth)),
        macro_f1=metrics.macro_f1(truth, called, min_cells=1),
        majority_accuracy=metrics.majority_accuracy(truth),
    )
    if fitted.head.target == TYPE:
        measured = replace(
            measured,
            zero_shot_accuracy=float(np.mean(texts == truth)),
            zero_shot_macro_f1=metrics.macro_f1(truth, texts, min_cells=1),
        )
    calibration = _calibrate(shots, log_probabilities, judged, tree, fitted.head.model_sha256)
    if calibration is None:
        return measured
    head = replace(measured.head, calibration=calibration)
    return replace(measured, head=head)


def _calibrate(
    shots: LabelledCells,
    log_probabilities: np.ndarray,
    judged: np.ndarray,
    tree: TermTree,
    model_sha256: str,
) -> Calibration | None:
    """Learn what the head's probabilities are worth from cells that it did not see."""
    if judged.sum() < _LEAST_FOR_CALIBRATION:
        return None
    logs = log_probabilities[judged]
    by_depth = terms_by_depth(logs, tree, logs.argmax(axis=1), temperature=1.0)
    # What is true of a label, words included: the terms at or above it in the tree.
    is_true = tree.lineages.toarray() > 0  # (n_labels, n_terms)
    is_right = is_true[shots.labels[judged][:, None], np.maximum(by_depth.terms, 0)]
    part = LabelledTerms(
        study="labelled cells",
        probabilities=by_depth.probabilities,
        is_right=is_right & (by_depth.terms >= 0),
    )
    curve = fit_curve([part], temperature=1.0)
    if curve.slope < _LEAST_SLOPE:
        return None
    return Calibration(
        all_types=curve,
        given=curve,
        model_sha256=model_sha256,
        fitted_on=HELD_OUT,
    )
