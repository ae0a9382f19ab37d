"""Compiled passes over the values of counts: what must hold of them, and the total of each cell."""

import numpy as np

from langcell.rank_kernel import compiled


@compiled
def holds_only(values: np.ndarray, integers: bool) -> bool:
    """Tell whether no value is negative, infinite or missing, nor, if asked, between integers."""
    n_wrong = np.int64(0)
    for place in range(len(values)):  # no way out: the compiler takes many values at once
        value = values[place]
        is_right = (value >= 0) & (value < np.inf) & ((value == np.floor(value)) | (not integers))
        n_wrong |= not is_right
    return n_wrong == 0


@compiled
def row_totals(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum each row of a CSR matrix from left to right in float64, shape (n_rows,)."""
    totals = np.zeros(len(indptr) - 1, np.float64)
    for row in range(len(totals)):
        total = 0.0
        for value in values[indptr[row] : indptr[row + 1]]:
            total += np.float64(value)
        totals[row] = total
    return totals
