"""Selective prediction: accuracy and coverage at a threshold, calibration error, risk."""

from dataclasses import dataclass

import numpy as np

from zeroshot.confidence.reliability import LOWEST_THRESHOLD, deepest

_BINS = 10


@dataclass(frozen=True, kw_only=True)
class SelectiveFigures:
    """Selective prediction scores of one file.

    Attributes
    ----------
    accuracy: share of correct calls at the threshold; NaN without calls
    coverage: share of cells with a call
    depth: mean depth of the calls, in edges
    ece, adaptive_ece: calibration error of the deepest call with confidence of at least 0.5, over ten
        bins of equal width or of equal size
    aurc: area under the risk-coverage curve of the same calls; a cell without a call counts as wrong
    """

    accuracy: float
    coverage: float
    depth: float
    ece: float
    adaptive_ece: float
    aurc: float


def selective_figures(
    confidence: np.ndarray, is_right: np.ndarray, depths: np.ndarray, *, level: float
) -> SelectiveFigures:
    """Score the calls of a file.

    Parameters
    ----------
    confidence, is_right: for the term of each depth, deepest last, shape (n_cells, n_depths)
    depths: depths of the terms, broadcastable to the same shape
    level: confidence threshold of a call
    """
    made, deepest_term = deepest(confidence, level)
    depths = np.broadcast_to(depths, confidence.shape)
    low_made, low = deepest(confidence, LOWEST_THRESHOLD)
    cells = np.arange(len(confidence))
    sure, right = confidence[cells, low][low_made], is_right[cells, low][low_made]
    by_width = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    by_size = np.argsort(np.argsort(sure, kind="stable")) * _BINS // max(1, len(sure))
    return SelectiveFigures(
        accuracy=float(is_right[cells, deepest_term][made].mean()) if made.any() else float("nan"),
        coverage=float(made.mean()),
        depth=float(depths[cells, deepest_term][made].mean()) if made.any() else float("nan"),
        ece=calibration_error(sure, right, by_width),
        adaptive_ece=calibration_error(sure, right, by_size),
        aurc=area_under_risk(sure, right, n_cells=len(confidence)),
    )


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, bins: np.ndarray) -> float:
    """Return the mean gap between confidence and accuracy over bins, weighted by cells.

    >>> calibration_error(np.array([0.9, 0.7]), np.array([True, True]), np.array([0, 0]))
    0.2
    """
    if not len(confidence):
        return float("nan")
    gaps = np.bincount(bins, confidence) - np.bincount(bins, is_right.astype(float))
    return round(float(np.abs(gaps).sum() / len(confidence)), 12)


def area_under_risk(confidence: np.ndarray, is_right: np.ndarray, *, n_cells: int) -> float:
    """Return the mean risk over all coverages; cells without a call come last and count as wrong.

    Geifman and El-Yaniv 2017, NeurIPS 30.

    >>> area_under_risk(np.array([0.9, 0.6]), np.array([True, False]), n_cells=2)
    0.25
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.concatenate([~is_right[order], np.ones(n_cells - len(order), dtype=bool)])
    return float(np.mean(np.cumsum(wrong) / np.arange(1, n_cells + 1)))
