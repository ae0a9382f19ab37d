"""The compiled core of back-off: sum candidates up the ontology, keep the best term of each depth."""

import numpy as np

from langcell.runtime.compiled import compiled
from langcell.runtime.threads import over_slices
from zeroshot.confidence.term_tree import TermTree
from zeroshot.scores.ancestor_sums import LANES, add_to_ancestors, load_lanes

_CELLS_PER_TASK = 128
PROBABLE = 0.1  # what a term has at least that is kept beside the best of its depth
N_OTHERS = 24  # such terms of a cell, the first of them if there are more
# Terms above the very same candidates have the same probability but for rounding: then the first
# of them is taken, in whatever order the candidates were summed.
_TIE = 1e-12


@compiled
def _sum_some(
    shares: np.ndarray,
    pointers: np.ndarray,
    above: np.ndarray,
    depths: np.ndarray,
    is_callable: np.ndarray,
    leaf_terms: np.ndarray,
    best_terms: np.ndarray,
    best: np.ndarray,
    leaf: np.ndarray,
    other_terms: np.ndarray,
    others: np.ndarray,
) -> None:
    """Fill the last six, a row a cell, from what the candidates hold."""
    n_cells, n_candidates = shares.shape
    own = np.empty((n_candidates, LANES), np.float64)
    sums = np.empty((len(depths), LANES), np.float64)
    totals = np.empty(LANES, np.float64)
    for first in range(0, n_cells, LANES):
        n_loaded = load_lanes(shares, first, own)
        sums[:] = 0.0
        totals[:] = 0.0
        add_to_ancestors(own, pointers, above, sums)
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
    """Return the most probable term that may be called at each depth, and how probable.

    Plain threads do the work (`langcell.runtime.threads.over_slices`); a cell's result depends on
    its own row alone.

    Parameters
    ----------
    log_probabilities
        Of all candidates, float32, shape (n_cells, n_candidates); a constant a row does not matter.
    tree
        Of the same candidates.
    leaf_terms
        Row of a term for each cell whose probability is wanted too, int32, shape (n_cells,).
    temperature
        Log-probabilities are divided by it.

    Returns
    -------
    tuple of numpy.ndarray
        Rows of terms, int32, -1 where no term of that depth has any probability, and their
        probabilities, float64, both (n_cells, n_depths); probabilities of `leaf_terms`, float64;
        rows of further terms, int32, -1 for none, that may be called and have a probability of at
        least `PROBABLE`, and their probabilities, float64, both (n_cells, `N_OTHERS`).
    """
    n_cells = len(log_probabilities)
    best_terms = np.full((n_cells, tree.n_depths), -1, np.int32)
    best = np.zeros((n_cells, tree.n_depths), np.float64)
    leaf = np.empty(n_cells, np.float64)
    other_terms = np.full((n_cells, N_OTHERS), -1, np.int32)
    others = np.zeros((n_cells, N_OTHERS), np.float64)

    def climb_some(start: int, stop: int) -> None:
        scaled = log_probabilities[start:stop] / np.float32(temperature)
        _sum_some(
            np.exp(scaled - scaled.max(axis=1, keepdims=True)),
            tree.above.indptr,
            tree.above.indices,
            tree.depths,
            tree.is_callable,
            leaf_terms[start:stop],
            best_terms[start:stop],
            best[start:stop],
            leaf[start:stop],
            other_terms[start:stop],
            others[start:stop],
        )

    over_slices(climb_some, n_cells, size=_CELLS_PER_TASK)
    return best_terms, best, leaf, other_terms, others
