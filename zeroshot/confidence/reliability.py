"""Reliability of confidence: accuracy by confidence, and coverage and risk by threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LOWEST_THRESHOLD = 0.5  # of the calls whose confidence is scored
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_FINE_BINS = 20  # bins of the record, over the range 0 to 1

Outcomes = tuple[np.ndarray, np.ndarray]  # confidence and correctness, each (n_cells, n_depths)
CallOutcomes = tuple[np.ndarray, np.ndarray]  # the same of calls, each (n_calls,)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReliabilityBins:
    """Accuracy of calls in bins of confidence; arrays of shape (n_bins,).

    Attributes
    ----------
    confidence: mean confidence of the cells in a bin
    accuracy: share of correct calls
    n_cells: number of cells
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    n_cells: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| over cells."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.average(gaps, weights=self.n_cells)) if len(gaps) else float("nan")


def reliability_bins(
    confidence: np.ndarray,
    is_right: np.ndarray,
    *,
    n_bins: int = 10,
    weights: np.ndarray | None = None,
) -> ReliabilityBins:
    """Compute the accuracy in bins of equal width of confidence; empty bins are left out.

    Parameters
    ----------
    confidence: 0 to 1, shape (n_cells,)
    is_right: whether the call is correct, bool, shape (n_cells,)
    n_bins: number of bins over the range 0 to 1
    weights: weights of the cells in the means, shape (n_cells,); equal by default

    Examples
    --------
    >>> bins = reliability_bins(np.array([0.91, 0.99, 0.42]), np.array([True, False, True]))
    >>> bins.n_cells.tolist(), bins.accuracy.tolist(), round(bins.expected_error, 2)
    ([1, 2], [1.0, 0.5], 0.49)
    """
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    n_cells = np.bincount(bins, minlength=n_bins)
    filled = n_cells > 0
    weights = np.ones(len(bins)) if weights is None else weights
    total = np.bincount(bins, weights, n_bins)[filled]
    return ReliabilityBins(
        confidence=np.bincount(bins, weights * confidence, n_bins)[filled] / total,
        accuracy=np.bincount(bins, weights * is_right, n_bins)[filled] / total,
        n_cells=n_cells[filled],
    )


def deepest(confidence: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return whether any depth of a cell reaches the threshold, and the deepest one (0 if none).

    Parameters
    ----------
    confidence: of the best term of each depth, shape (n_cells, n_depths)
    threshold: lowest confidence of a call
    """
    depth = np.where(confidence >= threshold, np.arange(confidence.shape[1]), -1).max(axis=1)
    return depth >= 0, np.maximum(depth, 0)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Reliability of confidence on held-out studies.

    All studies have equal weight in all values except numbers of cells.

    Attributes
    ----------
    measured_on: description of the cells, candidates and labels
    ece: expected calibration error, mean over studies: ten bins of the confidence of the deepest
        call with a confidence of at least 0.5
    confidence, accuracy, n_cells: of the same calls, in bins of equal width; empty ones left out
    levels: confidence thresholds with at least one call
    coverage: share of cells called at each threshold
    risk: share of these calls that are neither the true type nor an ancestor of it
    """

    measured_on: str
    ece: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    n_cells: tuple[int, ...]
    levels: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]

    def __post_init__(self) -> None:
        bins = {len(self.confidence), len(self.accuracy), len(self.n_cells)}
        curve = {len(self.levels), len(self.coverage), len(self.risk)}
        if len(bins) > 1 or len(curve) > 1:
            raise ValueError(
                "columns of a reliability record must have equal lengths, got "
                f"{sorted(bins)} for the bins and {sorted(curve)} for the thresholds"
            )

    @property
    def bins(self) -> ReliabilityBins:
        """Bins as arrays."""
        return ReliabilityBins(
            confidence=np.array(self.confidence),
            accuracy=np.array(self.accuracy),
            n_cells=np.array(self.n_cells),
        )

    @classmethod
    def of(cls, record: Mapping[str, object]) -> "Reliability":
        """Build from a record whose columns are lists or arrays.

        Raises
        ------
        TypeError, ValueError
            If the record is not a reliability record.
        """
        columns = {
            name: value if isinstance(value, str | float) else tuple(np.asarray(value).tolist())
            for name, value in record.items()
        }
        return cls(**columns)  # type: ignore[arg-type]


def measure_reliability(
    studies: Mapping[str, Sequence[Outcomes]], *, measured_on: str
) -> Reliability | None:
    """Measure the reliability of confidence; None if no call has a confidence of at least 0.5.

    Parameters
    ----------
    studies: parts of each study: confidence of the best term of each depth, and whether the term is
        the true type or an ancestor of it
    measured_on: description of the data
    """
    calls = {study: _calls(parts, LOWEST_THRESHOLD) for study, parts in studies.items()}
    confidence, right = (np.concatenate([each[i] for each in calls.values()]) for i in (0, 1))
    if not len(confidence):
        return None
    weights = [np.full(len(each), 1 / max(1, len(each))) for each, _ in calls.values()]
    bins = reliability_bins(confidence, right, n_bins=_FINE_BINS, weights=np.concatenate(weights))
    errors = [reliability_bins(*each).expected_error for each in calls.values() if len(each[0])]
    curve = [(threshold, *_selective(studies, threshold)) for threshold in THRESHOLDS]
    levels, coverage, risk = zip(*(point for point in curve if point[1] > 0), strict=True)
    return Reliability(
        measured_on=measured_on,
        ece=round(float(np.mean(errors)), 4),
        confidence=_rounded(bins.confidence),
        accuracy=_rounded(bins.accuracy),
        n_cells=tuple(bins.n_cells.tolist()),
        levels=levels,
        coverage=_rounded(coverage),
        risk=_rounded(risk),
    )


def _calls(parts: Sequence[Outcomes], threshold: float) -> CallOutcomes:
    """Return the calls that reach the threshold."""
    confidences, right = [], []
    for confidence, is_right in parts:
        is_called, depth = deepest(confidence, threshold)
        cells = np.flatnonzero(is_called)
        confidences.append(confidence[cells, depth[cells]])
        right.append(is_right[cells, depth[cells]])
    return np.concatenate(confidences), np.concatenate(right)


def _selective(studies: Mapping[str, Sequence[Outcomes]], threshold: float) -> tuple[float, float]:
    """Return coverage (share of cells called) and risk (share of wrong calls), means over studies."""
    coverage, risk = [], []
    for parts in studies.values():
        right = _calls(parts, threshold)[1]
        coverage.append(len(right) / sum(len(is_right) for _, is_right in parts))
        if len(right):
            risk.append(1 - right.mean())
    return float(np.mean(coverage)), float(np.mean(risk)) if risk else 0.0


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
