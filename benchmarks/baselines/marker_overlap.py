"""Baseline: the label whose markers overlap most with the top genes of a cell."""

import numpy as np

from benchmarks.baselines.baseline import BaselineMethod
from benchmarks.data.training_cells import Problem

_GENES = 4_000
_MARKERS = 50  # per type
_TOP_GENES = 200  # per cell


def marker_overlap(problem: Problem) -> np.ndarray:
    """Return the number of markers of each class in a cell, float32, shape (n_cells, n_classes).

    Markers of a class have the highest mean z-scores over its training rows; genes of a cell are the
    expressed ones with the highest z-scores. Ties go to the class whose markers have higher z-scores
    in the cell.
    """
    chosen = problem.most_variable(_GENES)
    train, cells = chosen.standardised()
    n_classes, n_genes = len(problem.classes), train.shape[1]
    means = np.zeros((n_classes, n_genes), dtype=np.float32)
    np.add.at(means, problem.labels, train)
    means /= np.bincount(problem.labels, minlength=n_classes)[:, None]
    markers = _highest(means, min(_MARKERS, n_genes))  # (n_classes, n_genes)
    genes = _highest(cells, min(_TOP_GENES, n_genes)) * (chosen.cells > 0)
    strength = cells @ markers.T / markers.sum(axis=1)  # within a few standard deviations of zero
    return (genes @ markers.T + 1e-3 * strength).astype(np.float32)


def _highest(values: np.ndarray, n: int) -> np.ndarray:
    """Return 1 at the n highest values of each row, else 0."""
    places = np.argpartition(-values, n - 1, axis=1)[:, :n]
    highest = np.zeros(values.shape, dtype=np.float32)
    np.put_along_axis(highest, places, 1, axis=1)
    return highest


METHOD = BaselineMethod(name="markers", score=marker_overlap, combine="max", packages=("numpy",))
