"""Compiled core of back-off: sum candidates over their ancestors, keep the best term per depth."""

import numpy as np

from langcell.runtime.compiled import compiled
from langcell.runtime.threads import over_slices
from zeroshot.confidence.term_tree import TermTree
from zeroshot.scores.ancestor_sums import LANES, add_to_ancestors, load_lanes

_CELLS_PER_TASK = 128
PROBABLE = 0.1  # lowest probability of a term that is kept although not the best of its depth
N_OTHERS = 24  # most such terms of a cell; the first ones are kept
# Terms with the same candidates as descendants have equal probabilities up to rounding: the first of
# them is taken, independent of the order of summation.
_TIE = 1e-12


@compiled
def _sum_block(
    shares: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    depths: np.ndarray,
    is_callable: np.ndarray,
    leaf_terms: np.ndarray,
    best_terms: np.ndarray,
    best: np.ndarray,
    leaf: np.ndarray,
    other_terms: np.ndarray,
    others: np.ndarray,
) -> None:
    """Fill the last five arguments, one row per cell, from the shares of the candidates."""
    n_cells, n_candidates = shares.shape
    own = np.empty((n_candidates, LANES), np.float64)
    sums = np.empty((len(depths), LANES), np.float64)
    totals = np.empty(LANES, np.float64)
    for first in range(0, n_cells, LANES):
        n_loaded = load_lanes(shares, first, own)
        sums[:] = 0.0
        totals[:] = 0.0
        add_to_ancestors(own, indptr, indices, sums)
        for candidate in range(n_candidates):
            for lane in range(LANES):
                totals[lane] += own[candidate, lane]
        for term in range(len(depths)):
            depth = depths[term]
            if is_callable[term]:
                for lane in range(n_loaded):
                    probability = min(1.0, sums[term, lane] / totals[lane])
                    if probability > best[first + lane, depth] + _TIE:
                        best[first + lane, depth] = probability
                        best_terms[first + lane, depth] = term
        for lane in range(n_loaded):
            n_others = 0
            for term in range(len(depths)):
                probability = sums[term, lane] / totals[lane]
                if probability < PROBABLE or not is_callable[term] or n_others == N_OTHERS:
                    continue
                if best_terms[first + lane, depths[term]] != term:
                    other_terms[first + lane, n_others] = term
                    others[first + lane, n_others] = min(1.0, probability)
                    n_others += 1
            leaf[first + lane] = min(1.0, sums[leaf_terms[first + lane], lane] / totals[lane])


def sum_over_ancestors(
    log_probabilities: np.ndarray, tree: TermTree, leaf_terms: np.ndarray, *, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the most probable callable term of each depth, and its probability.

    Runs in threads (`langcell.runtime.threads.over_slices`); the result of a cell depends on its own
    row only.

    Parameters
    ----------
    log_probabilities
        Of all candidates, float32, shape (n_cells, n_candidates), up to a constant per row.
    tree
        Of the same candidates.
    leaf_terms
        Row of one more term for each cell, whose probability is returned, int32, shape (n_cells,).
    temperature
        Divisor of the log-probabilities.

    Returns
    -------
    tuple of numpy.ndarray
        Rows of terms, int32, -1 if no term of that depth has a positive probability, and their
        probabilities, float64, both (n_cells, n_depths); probabilities of `leaf_terms`, float64;
        rows of further callable terms with a probability of at least `PROBABLE`, int32, -1 for none,
        and their probabilities, float64, both (n_cells, `N_OTHERS`).
    """
    n_cells = len(log_probabilities)
    best_terms = np.full((n_cells, tree.n_depths), -1, np.int32)
    best = np.zeros((n_cells, tree.n_depths), np.float64)
    leaf = np.empty(n_cells, np.float64)
    other_terms = np.full((n_cells, N_OTHERS), -1, np.int32)
    others = np.zeros((n_cells, N_OTHERS), np.float64)

    def sum_block(start: int, stop: int) -> None:
        scaled = log_probabilities[start:stop] / np.float32(temperature)
        _sum_block(
            np.exp(scaled - scaled.max(axis=1, keepdims=True)),
            tree.lineages.indptr,
            tree.lineages.indices,
            tree.depths,
            tree.is_callable,
            leaf_terms[start:stop],
            best_terms[start:stop],
            best[start:stop],
            leaf[start:stop],
            other_terms[start:stop],
            others[start:stop],
        )

    over_slices(sum_block, n_cells, size=_CELLS_PER_TASK)
    return best_terms, best, leaf, other_terms, others
