"""Sums along the ontology for several cells at once, one in each lane of a vector register.

A candidate passes what it has to each of its ancestors: thousands of additions a cell at scattered
places. With cells side by side in memory the places are looked up once for all of them, and one
instruction adds for several. A lane sees the same additions in the same order whatever is beside
it, so a cell's bits depend on its own row alone.
"""

import numpy as np

from langcell.runtime.compiled import compiled

LANES = 8  # cells; their sums over all terms stay in the second-level cache


@compiled
def load_lanes(rows: np.ndarray, first: int, lanes: np.ndarray) -> int:
    """Put up to `LANES` rows from `first` on into the columns of `lanes`; return how many.

    Parameters
    ----------
    rows
        Shape (n_rows, n_candidates).
    lanes
        float64, shape (n_candidates, LANES); columns without a row become zero.
    """
    n_loaded = min(LANES, len(rows) - first)
    lanes[:] = 0.0
    for lane in range(n_loaded):
        row = rows[first + lane]
        for candidate in range(len(row)):
            lanes[candidate, lane] = row[candidate]
    return n_loaded


@compiled
def add_upward(
    values: np.ndarray, pointers: np.ndarray, above: np.ndarray, sums: np.ndarray
) -> None:
    """Add the values of each candidate to the sums of all that is above it.

    Parameters
    ----------
    values
        float64, shape (n_candidates, LANES).
    pointers, above
        Rows of `sums` above candidate i are `above[pointers[i]:pointers[i + 1]]`.
    sums
        float64, shape (n_terms, LANES).
    """
    for candidate in range(len(values)):
        # Held in registers: the compiler cannot know that `sums` is not `values`.
        own = values[candidate]
        a, b, c, d = own[0], own[1], own[2], own[3]
        e, f, g, h = own[4], own[5], own[6], own[7]
        for place in range(pointers[candidate], pointers[candidate + 1]):
            at = sums[above[place]]
            at[0], at[1], at[2], at[3] = at[0] + a, at[1] + b, at[2] + c, at[3] + d
            at[4], at[5], at[6], at[7] = at[4] + e, at[5] + f, at[6] + g, at[7] + h


@compiled
def add_downward(
    values: np.ndarray, pointers: np.ndarray, above: np.ndarray, sums: np.ndarray
) -> None:
    """Add to the sums of each candidate the values of all that is above it.

    Parameters
    ----------
    values
        float64, shape (n_terms, LANES).
    pointers, above
        As for `add_upward`.
    sums
        float64, shape (n_candidates, LANES).
    """
    for candidate in range(len(sums)):
        own = sums[candidate]
        a, b, c, d = own[0], own[1], own[2], own[3]
        e, f, g, h = own[4], own[5], own[6], own[7]
        for place in range(pointers[candidate], pointers[candidate + 1]):
            at = values[above[place]]
            a, b, c, d = a + at[0], b + at[1], c + at[2], d + at[3]
            e, f, g, h = e + at[4], f + at[5], g + at[6], h + at[7]
        own[0], own[1], own[2], own[3] = a, b, c, d
        own[4], own[5], own[6], own[7] = e, f, g, h
