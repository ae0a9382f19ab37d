"""The compiled core of back-off: sum candidates up the ontology, keep the best term of each depth."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from langcell.rank_kernel import compiled
from langcell.threads import over_slices

if TYPE_CHECKING:
    from zeroshot.backoff import TermTree

_CELLS_PER_TASK = 128
# A candidate this much less probable than the best changes no sum in the fifth decimal, even with
# all the others like it.
_NEGLIGIBLE = 1e-9
# Terms above the very same candidates have the same probability but for rounding: then the first
# of them is taken, in whatever order the candidates were summed.
_TIE = 1e-12


@compiled
def _climb_some(
    log_probabilities: np.ndarray,
    sharpness: float,
    pointers: np.ndarray,
    above: np.ndarray,
    depths: np.ndarray,
    is_callable: np.ndarray,
    leaf_terms: np.ndarray,
    best_terms: np.ndarray,
    best: np.ndarray,
    leaf: np.ndarray,
    first_cell: int,
    last_cell: int,
) -> None:
    """Fill the rows of some cells in `best_terms`, `best` and `leaf`."""
    sums = np.empty(len(depths), np.float64)
    n_candidates = log_probabilities.shape[1]
    for cell in range(first_cell, last_cell):
        highest = log_probabilities[cell].max()
        sums[:] = 0.0
        total = 0.0
        for candidate in range(n_candidates):
            share = np.exp(sharpness * (log_probabilities[cell, candidate] - highest))
            if share > _NEGLIGIBLE:
                total += share
                for place in range(pointers[candidate], pointers[candidate + 1]):
                    sums[above[place]] += share
        for term in range(len(depths)):
            probability = min(1.0, sums[term] / total)
            depth = depths[term]
            if is_callable[term] and probability > best[cell, depth] + _TIE:
                best[cell, depth] = probability
                best_terms[cell, depth] = term
        leaf[cell] = min(1.0, sums[leaf_terms[cell]] / total)


def climb(
    log_probabilities: np.ndarray, tree: "TermTree", leaf_terms: np.ndarray, *, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the most probable term that may be called at each depth, and how probable.

    Plain threads do the work (`langcell.threads.over_slices`); a cell's result depends on
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
        probabilities, float64, both (n_cells, n_depths); probabilities of `leaf_terms`, float64.
    """
    n_cells = len(log_probabilities)
    best_terms = np.full((n_cells, tree.n_depths), -1, np.int32)
    best = np.zeros((n_cells, tree.n_depths), np.float64)
    leaf = np.empty(n_cells, np.float64)
    climb_some = partial(
        _climb_some,
        log_probabilities,
        1 / temperature,
        tree.above.indptr,
        tree.above.indices,
        tree.depths,
        tree.is_callable,
        leaf_terms,
        best_terms,
        best,
        leaf,
    )
    over_slices(climb_some, n_cells, size=_CELLS_PER_TASK)
    return best_terms, best, leaf
