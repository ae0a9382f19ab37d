"""Figures of calls that may be withheld: accuracy and coverage at a level, calibration error, risk."""

from dataclasses import dataclass

import numpy as np

from zeroshot.confidence.reliability import LOWEST_THRESHOLD, deepest

_BINS = 10


@dataclass(frozen=True, kw_only=True)
class SelectiveFigures:
    """Figures of the calls of one file.

    Attributes
    ----------
    accuracy: share of the calls made at the level that are right; NaN without any
    coverage: share of cells called
    depth: mean depth of the calls made, in edges
    ece, adaptive_ece: gap between confidence and accuracy of the deepest call of at least 0.5, over
        ten bins of equal width or of equal size
    aurc: area under the curve of risk over coverage of the same calls; a cell without is a miss
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
    """Judge the calls of a file.

    Parameters
    ----------
    confidence, is_right: of each rung, deepest last, shape (n_cells, n_rungs)
    depths: of the rungs, in a shape that fits
    level: least confidence of a call
    """
    made, rung = deepest(confidence, level)
    depths = np.broadcast_to(depths, confidence.shape)
    low_made, low = deepest(confidence, LOWEST_THRESHOLD)
    cells = np.arange(len(confidence))
    sure, right = confidence[cells, low][low_made], is_right[cells, low][low_made]
    by_width = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    by_size = np.argsort(np.argsort(sure, kind="stable")) * _BINS // max(1, len(sure))
    return SelectiveFigures(
        accuracy=float(is_right[cells, rung][made].mean()) if made.any() else float("nan"),
        coverage=float(made.mean()),
        depth=float(depths[cells, rung][made].mean()) if made.any() else float("nan"),
        ece=calibration_error(sure, right, by_width),
        adaptive_ece=calibration_error(sure, right, by_size),
        aurc=area_under_risk(sure, right, n_cells=len(confidence)),
    )


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, bins: np.ndarray) -> float:
    """Return the mean gap of confidence and accuracy over bins, weighted by cells.

    >>> calibration_error(np.array([0.9, 0.7]), np.array([True, True]), np.array([0, 0]))
    0.2
    """
    if not len(confidence):
        return float("nan")
    gaps = np.bincount(bins, confidence) - np.bincount(bins, is_right.astype(float))
    return round(float(np.abs(gaps).sum() / len(confidence)), 12)


def area_under_risk(confidence: np.ndarray, is_right: np.ndarray, *, n_cells: int) -> float:
    """Return the mean risk over all coverages, cells without a call last and wrong.

    Geifman and El-Yaniv 2017, NeurIPS 30.

    >>> area_under_risk(np.array([0.9, 0.6]), np.array([True, False]), n_cells=2)
    0.25
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.concatenate([~is_right[order], np.ones(n_cells - len(order), dtype=bool)])
    return float(np.mean(np.cumsum(wrong) / np.arange(1, n_cells + 1)))
