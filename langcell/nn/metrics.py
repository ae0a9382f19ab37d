"""Metrics of calls against true labels, flat and along an ontology.

Classes are integers (rows of a closure matrix, or any numbering shared by both arrays); -1 is
"no call" and is never correct.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

Distance = np.ndarray | Callable[[int, int], float]


@dataclass(frozen=True, kw_only=True)
class HierarchicalScore:
    """Precision, recall and F1 of ancestor sets."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class ConfusionTable:
    """Cells counted by true class (rows) and called class (columns)."""

    counts: np.ndarray  # int64, shape (n_true_classes, n_called_classes)
    true_classes: np.ndarray  # int64, most cells first
    called_classes: np.ndarray  # int64, most cells first


def _paired(truth: np.ndarray, called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth, called = np.asarray(truth), np.asarray(called)
    if truth.shape != called.shape or truth.ndim != 1:
        raise ValueError(
            "truth and called must both have shape (n_cells,), got "
            f"{truth.shape} and {called.shape}"
        )
    if not truth.size:
        raise ValueError("truth is empty: there are no cells to score")
    return truth, called


def accuracy(truth: np.ndarray, called: np.ndarray) -> float:
    """Share of cells whose call is the true class.

    Parameters
    ----------
    truth, called: class of each cell, int, shape (n_cells,); a call of -1 is wrong

    Examples
    --------
    >>> accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, -1]))
    0.5
    """
    truth, called = _paired(truth, called)
    return float(np.mean((truth == called) & (truth >= 0)))


def balanced_accuracy(truth: np.ndarray, called: np.ndarray) -> float:
    """Mean over true classes of the share of their cells that are called correctly (mean recall)."""
    truth, called = _paired(truth, called)
    return float(np.mean([np.mean(called[truth == each] == each) for each in np.unique(truth)]))


def macro_f1(truth: np.ndarray, called: np.ndarray, *, min_cells: int = 10) -> float:
    """Mean F1 over the true classes that have at least `min_cells` cells.

    All cells count: a call of a class that is too small or not in the truth is still an error for
    the true class. `min_cells=1` averages over all classes. NaN if no class is large enough.
    """
    truth, called = _paired(truth, called)
    classes, sizes = np.unique(truth, return_counts=True)
    scores = []
    for each in classes[sizes >= min_cells]:
        hits = np.sum((truth == each) & (called == each))
        scores.append(2 * hits / (np.sum(truth == each) + np.sum(called == each)))
    return float(np.mean(scores)) if scores else float("nan")


def top_k_accuracy(truth: np.ndarray, ranked: np.ndarray, *, k: int = 5) -> float:
    """Share of cells whose true class is among the first `k` of their ranked classes.

    Parameters
    ----------
    truth: class of each cell, int, shape (n_cells,)
    ranked: classes of each cell, best first, int, shape (n_cells, n_ranked)
    """
    truth, ranked = np.asarray(truth), np.asarray(ranked)
    if ranked.ndim != 2 or len(ranked) != len(truth):
        raise ValueError(
            f"ranked must have shape ({len(truth)}, n_ranked), one row per cell, got {ranked.shape}"
        )
    return float(np.mean(np.any(ranked[:, :k] == truth[:, None], axis=1)))


def majority_accuracy(truth: np.ndarray) -> float:
    """Accuracy of calling every cell by the most frequent true class."""
    truth, _ = _paired(truth, truth)
    return float(np.unique(truth, return_counts=True)[1].max() / len(truth))


def h_score(seen: float, unseen: float) -> float:
    """Harmonic mean of the accuracies on seen and unseen types; high only if both are high.

    Xian et al. 2019, IEEE TPAMI 41:2251 (generalised zero-shot learning).

    Examples
    --------
    >>> round(h_score(0.9, 0.3), 3)
    0.45
    """
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def _at(matrix: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    if not len(rows):
        return np.zeros(0, dtype=bool)  # scipy does not accept empty index arrays
    return np.asarray(matrix[rows, columns]).ravel().astype(bool)


def is_descendant(truth: np.ndarray, called: np.ndarray, closure: sparse.csr_matrix) -> np.ndarray:
    """Tell for each cell whether its call is the true class or a subtype of it.

    Parameters
    ----------
    truth, called: rows of the closure, int, shape (n_cells,)
    closure: bool, shape (n_classes, n_classes); [i, j] is True if j is i or an ancestor of i
    """
    truth, called = _paired(truth, called)
    known = (truth >= 0) & (called >= 0)
    correct = np.zeros(len(truth), dtype=bool)
    correct[known] = _at(closure, called[known], truth[known])
    return correct


def descendant_accuracy(truth: np.ndarray, called: np.ndarray, closure: sparse.csr_matrix) -> float:
    """Share of cells called by their true class or a subtype of it (the rule of scTab).

    Fischer et al. 2024, Nature Communications 15:6611: published labels are often coarse, so a call
    that is more specific than the truth is correct, and one that is less specific is wrong.
    """
    return float(np.mean(is_descendant(truth, called, closure)))


def hierarchical_f1(
    truth: np.ndarray, called: np.ndarray, closure: sparse.csr_matrix, *, root: int | None = None
) -> HierarchicalScore:
    """Compute precision, recall and F1 of the ancestor sets of calls, micro-averaged over cells.

    Kiritchenko et al. 2005: each class is represented by the set of its ancestors and itself,
    without the root.

    Parameters
    ----------
    truth, called: rows of the closure, int, shape (n_cells,); a call of -1 is the empty set
    closure: bool, shape (n_classes, n_classes); [i, j] is True if j is i or an ancestor of i
    root: the root class, an ancestor of all others
    """
    truth, called = _paired(truth, called)
    pairs, cells = np.unique(np.stack([truth, called]), axis=1, return_counts=True)
    shared = n_true = n_called = 0
    for (true_class, called_class), n_cells in zip(pairs.T, cells, strict=True):
        true_set = _ancestor_set(closure, true_class, root)
        called_set = _ancestor_set(closure, called_class, root)
        shared += n_cells * len(true_set & called_set)
        n_true += n_cells * len(true_set)
        n_called += n_cells * len(called_set)
    precision = float(shared / n_called) if n_called else 0.0
    recall = float(shared / n_true) if n_true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return HierarchicalScore(precision=precision, recall=recall, f1=f1)


def _ancestor_set(closure: sparse.csr_matrix, which: int, root: int | None) -> set[int]:
    if which < 0:
        return set()
    columns = closure.indices[closure.indptr[which] : closure.indptr[which + 1]]
    return {int(column) for column in columns} - {root}


def ontology_distance(truth: np.ndarray, called: np.ndarray, distance: Distance) -> float:
    """Mean distance in the ontology from truth to call; cells without a call are left out.

    Parameters
    ----------
    truth, called: classes, int, shape (n_cells,)
    distance: number of edges, as a matrix (n_classes, n_classes) or a function of two classes
    """
    truth, called = _paired(truth, called)
    known = (truth >= 0) & (called >= 0)
    if not known.any():
        return float("nan")
    pairs, cells = np.unique(np.stack([truth[known], called[known]]), axis=1, return_counts=True)
    if isinstance(distance, np.ndarray):
        steps = distance[pairs[0], pairs[1]]
    else:
        steps = np.array([distance(int(a), int(b)) for a, b in pairs.T])
    return float(np.average(steps, weights=cells))


def confusion_table(truth: np.ndarray, called: np.ndarray) -> ConfusionTable:
    """Count cells by true and called class, the classes with most cells first."""
    truth, called = _paired(truth, called)
    true_classes, rows = _by_size(truth)
    called_classes, columns = _by_size(called)
    counts = np.zeros((len(true_classes), len(called_classes)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    return ConfusionTable(counts=counts, true_classes=true_classes, called_classes=called_classes)


def _by_size(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct classes, most cells first, and the index of each cell's class in them."""
    distinct, inverse, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[inverse]
