"""How often calls of a confidence are right, and what a level of confidence costs in calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LOWEST_LEVEL = 0.5  # of the calls whose confidence is judged
LEVELS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_FINE_BINS = 20  # of the record, over the range 0 to 1

Outcomes = tuple[np.ndarray, np.ndarray]  # confidence and outcome, each (n_cells, n_rungs)
Outcome = tuple[np.ndarray, np.ndarray]  # the same of calls, each (n_calls,)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReliabilityBins:
    """How often calls are right, by their confidence; arrays of shape (n_bins,).

    Attributes
    ----------
    confidence: mean confidence of the cells of a bin
    accuracy: share of them that are right
    n_cells: how many there are
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    n_cells: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean gap of accuracy and confidence over cells."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.average(gaps, weights=self.n_cells)) if len(gaps) else float("nan")


def reliability_bins(
    confidence: np.ndarray,
    is_right: np.ndarray,
    *,
    n_bins: int = 10,
    weights: np.ndarray | None = None,
) -> ReliabilityBins:
    """Sort cells into bins of equal width by confidence; empty bins are left out.

    Parameters
    ----------
    confidence: 0 to 1, shape (n_cells,)
    is_right: whether the call is right, bool, shape (n_cells,)
    n_bins: over the range 0 to 1
    weights: of the cells in the means, shape (n_cells,); all the same by default

    Examples
    --------
    >>> bins = reliability_bins(np.array([0.91, 0.99, 0.42]), np.array([True, False, True]))
    >>> bins.n_cells.tolist(), bins.accuracy.tolist(), round(bins.expected_error, 2)
    ([1, 2], [1.0, 0.5], 0.49)
    """
    place = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    n_cells = np.bincount(place, minlength=n_bins)
    held = n_cells > 0
    weights = np.ones(len(place)) if weights is None else weights
    total = np.bincount(place, weights, n_bins)[held]
    return ReliabilityBins(
        confidence=np.bincount(place, weights * confidence, n_bins)[held] / total,
        accuracy=np.bincount(place, weights * is_right, n_bins)[held] / total,
        n_cells=n_cells[held],
    )


def deepest(confidence: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return whether a cell has a rung that reaches a level, and the deepest (0 without).

    Parameters
    ----------
    confidence: of each rung, deepest last, shape (n_cells, n_rungs)
    level: least confidence of a call
    """
    rung = np.where(confidence >= level, np.arange(confidence.shape[1]), -1).max(axis=1)
    return rung >= 0, np.maximum(rung, 0)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What confidence was worth in studies that the calibration had not learnt from.

    Every study weighs the same in all figures but numbers of cells.

    Attributes
    ----------
    measured_on: cells, candidates and labels, in words
    ece: expected calibration error of a study, mean over studies: ten bins of the confidence of the
        deepest call of at least 0.5
    confidence, accuracy, n_cells: of the same calls, by bins of equal width; empty ones left out
    levels: least confidences of a call at which there were calls
    coverage: share of cells called at each level
    risk: share of these calls that are neither the truth nor an ancestor of it
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
            raise ValueError("a reliability record needs as many values in each of its columns")

    @property
    def bins(self) -> ReliabilityBins:
        """The bins as arrays."""
        return ReliabilityBins(
            confidence=np.array(self.confidence),
            accuracy=np.array(self.accuracy),
            n_cells=np.array(self.n_cells),
        )

    @classmethod
    def of(cls, record: Mapping[str, object]) -> "Reliability":
        """Read a record whose columns are lists or arrays.

        Raises
        ------
        TypeError, ValueError
            If it is none.
        """
        columns = {
            name: value if isinstance(value, str | float) else tuple(np.asarray(value).tolist())
            for name, value in record.items()
        }
        return cls(**columns)  # type: ignore[arg-type]


def measure_reliability(
    studies: Mapping[str, Sequence[Outcomes]], *, measured_on: str
) -> Reliability | None:
    """Judge confidences by outcomes; None where no cell of any study has a call of at least 0.5.

    Parameters
    ----------
    studies: parts of each study; confidence of each rung, deepest last, and whether it is the truth
        or an ancestor of it
    measured_on: what they are, in words
    """
    calls = {study: _calls(parts, LOWEST_LEVEL) for study, parts in studies.items()}
    sure, right = (np.concatenate([each[i] for each in calls.values()]) for i in (0, 1))
    if not len(sure):
        return None
    weights = [np.full(len(each), 1 / max(1, len(each))) for each, _ in calls.values()]
    bins = reliability_bins(sure, right, n_bins=_FINE_BINS, weights=np.concatenate(weights))
    errors = [reliability_bins(*each).expected_error for each in calls.values() if len(each[0])]
    curve = [(level, *_selective(studies, level)) for level in LEVELS]
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


def _calls(parts: Sequence[Outcomes], level: float) -> Outcome:
    """Return the calls made at a level."""
    sure, right = [], []
    for confidence, is_right in parts:
        made, rung = deepest(confidence, level)
        cells = np.flatnonzero(made)
        sure.append(confidence[cells, rung[cells]])
        right.append(is_right[cells, rung[cells]])
    return np.concatenate(sure), np.concatenate(right)


def _selective(studies: Mapping[str, Sequence[Outcomes]], level: float) -> tuple[float, float]:
    """Return the share of cells called and the share of calls that are wrong, means over studies."""
    coverage, risk = [], []
    for parts in studies.values():
        right = _calls(parts, level)[1]
        coverage.append(len(right) / sum(len(is_right) for _, is_right in parts))
        if len(right):
            risk.append(1 - right.mean())
    return float(np.mean(coverage)), float(np.mean(risk)) if risk else 0.0


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
