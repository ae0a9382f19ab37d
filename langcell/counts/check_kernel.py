"""Compiled check of count rows: find invalid entries and sum each cell in one pass."""

import numpy as np

from langcell.runtime.compiled import compiled

# Fault flags: an index outside the matrix; column indices not strictly ascending (unsorted or
# duplicated); a value that is negative, infinite, missing or, if integers are required, fractional.
OUTSIDE, UNSORTED, INVALID = 1, 2, 4


@compiled
def _column_faults(columns: np.ndarray, n_columns: int) -> int:
    lowest, highest, is_unsorted = columns.dtype.type(0), columns.dtype.type(0), False
    for i in range(len(columns)):  # no early exit, so that the compiler can vectorise the loop
        lowest, highest = min(lowest, columns[i]), max(highest, columns[i])
    after = columns[1:]
    for i in range(len(after)):
        is_unsorted |= after[i] <= columns[i]
    is_outside = lowest < 0 or highest >= n_columns
    return OUTSIDE * is_outside + UNSORTED * is_unsorted


@compiled
def _value_faults(values: np.ndarray, integers: bool) -> int:
    has_invalid = np.int64(0)  # an integer: with a bool the compiler does not vectorise the loop
    for i in range(len(values)):
        value = values[i]
        is_valid = (value >= 0) & (value < np.inf) & ((value == np.floor(value)) | (not integers))
        has_invalid |= not is_valid
    return INVALID * int(has_invalid)


@compiled
def _total(values: np.ndarray, integers: bool) -> float:
    """Sum values from left to right; integers in four sums, exact in any order below 2^53."""
    n_fours = len(values) // 4 if integers else 0
    first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
    for four in range(n_fours):
        first += np.float64(values[4 * four])
        second += np.float64(values[4 * four + 1])
        third += np.float64(values[4 * four + 2])
        fourth += np.float64(values[4 * four + 3])
    total = first + second + third + fourth
    for value in values[4 * n_fours :]:
        total += np.float64(value)
    return total


@compiled
def check_rows(
    indptr: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    n_columns: int,
    integers: bool,
    totals: np.ndarray,
) -> int:
    """Sum each row of a CSR matrix from left to right in float64, and check all its entries.

    Parameters
    ----------
    indptr, columns, values
        The CSR arrays. Only one thing is assumed: `indptr` does not go beyond `values`.
    n_columns
        Number of columns of the matrix.
    integers
        Whether all values must be integers.
    totals
        Output for the row sums, float64, shape (n_rows,); incomplete if `indptr` is invalid.

    Returns
    -------
    int
        The fault flags of all rows combined, 0 if there is no fault.
    """
    faults = 0
    for row in range(len(totals)):
        first, last = indptr[row], indptr[row + 1]
        if first < 0 or last < first:
            return OUTSIDE
        faults |= _column_faults(columns[first:last], n_columns)
        faults |= _value_faults(values[first:last], integers)
        totals[row] = _total(values[first:last], integers)
    return faults
