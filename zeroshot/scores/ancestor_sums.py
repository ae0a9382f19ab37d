"""Sums over ancestors in the ontology, for several cells at once (one SIMD lane per cell).

The value of each candidate is added to all of its ancestors: thousands of additions per cell at
scattered indices. With cells contiguous in memory, each index is read once for all of them and one
instruction adds several values. The order of additions in a lane does not depend on the other
lanes, so the result of a cell is the same, bit for bit, whichever cells share its block.
"""

import numpy as np

from langcell.runtime.compiled import compiled

LANES = 8  # cells per block; their sums over all terms fit in the L2 cache


@compiled
def load_lanes(rows: np.ndarray, first: int, lanes: np.ndarray) -> int:
    """Copy up to `LANES` rows, starting at `first`, into the columns of `lanes`; return how many.

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
def add_to_ancestors(
    values: np.ndarray, indptr: np.ndarray, ancestors: np.ndarray, sums: np.ndarray
) -> None:
    """Add the value of each candidate to the sums of its ancestors.

    Parameters
    ----------
    values
        float64, shape (n_candidates, LANES).
    indptr, ancestors
        CSR layout: `ancestors[indptr[i]:indptr[i + 1]]` are the rows of `sums` that are ancestors of
        candidate i.
    sums
        float64, shape (n_terms, LANES).
    """
    for candidate in range(len(values)):
        # Local variables stay in registers: the compiler must assume that `sums` and `values` overlap.
        own = values[candidate]
        a, b, c, d = own[0], own[1], own[2], own[3]
        e, f, g, h = own[4], own[5], own[6], own[7]
        for entry in range(indptr[candidate], indptr[candidate + 1]):
            at = sums[ancestors[entry]]
            at[0], at[1], at[2], at[3] = at[0] + a, at[1] + b, at[2] + c, at[3] + d
            at[4], at[5], at[6], at[7] = at[4] + e, at[5] + f, at[6] + g, at[7] + h


@compiled
def add_from_ancestors(
    values: np.ndarray, indptr: np.ndarray, ancestors: np.ndarray, sums: np.ndarray
) -> None:
    """Add the values of its ancestors to the sum of each candidate.

    Parameters
    ----------
    values
        float64, shape (n_terms, LANES).
    indptr, ancestors
        As in `add_to_ancestors`.
    sums
        float64, shape (n_candidates, LANES).
    """
    for candidate in range(len(sums)):
        own = sums[candidate]
        a, b, c, d = own[0], own[1], own[2], own[3]
        e, f, g, h = own[4], own[5], own[6], own[7]
        for entry in range(indptr[candidate], indptr[candidate + 1]):
            at = values[ancestors[entry]]
            a, b, c, d = a + at[0], b + at[1], c + at[2], d + at[3]
            e, f, g, h = e + at[4], f + at[5], g + at[6], h + at[7]
        own[0], own[1], own[2], own[3] = a, b, c, d
        own[4], own[5], own[6], own[7] = e, f, g, h
