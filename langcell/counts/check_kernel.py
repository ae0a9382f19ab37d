"""One compiled pass over the rows of counts: what is wrong with them, and the total of each cell."""

import numpy as np

from langcell.runtime.compiled import compiled

# What may be wrong: a place outside the matrix; columns that do not ascend, as where one is there
# twice; a value that is negative, infinite or missing or, if asked, between integers.
OUTSIDE, UNSORTED, WRONG = 1, 2, 4


@compiled
def _column_faults(columns: np.ndarray, n_columns: int) -> int:
    lowest, highest, is_unsorted = columns.dtype.type(0), columns.dtype.type(0), False
    for place in range(len(columns)):  # no way out: the compiler takes many at once
        lowest, highest = min(lowest, columns[place]), max(highest, columns[place])
    after = columns[1:]
    for place in range(len(after)):
        is_unsorted |= after[place] <= columns[place]
    is_outside = lowest < 0 or highest >= n_columns
    return OUTSIDE * is_outside + UNSORTED * is_unsorted


@compiled
def _value_faults(values: np.ndarray, integers: bool) -> int:
    n_wrong = np.int64(0)  # of a truth value the compiler would take one at a time
    for place in range(len(values)):
        value = values[place]
        is_right = (value >= 0) & (value < np.inf) & ((value == np.floor(value)) | (not integers))
        n_wrong |= not is_right
    return WRONG * int(n_wrong)


@compiled
def _total(values: np.ndarray, integers: bool) -> float:
    """Sum values from left to right; whole numbers four at once: below 2^53 any order gives the same."""
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
    """Sum each row of a CSR matrix from left to right in float64, and tell what is wrong with any.

    Parameters
    ----------
    indptr, columns, values
        The matrix; `indptr` may not go beyond the values, which is all that is taken for granted.
    n_columns
        How many there are.
    integers
        Whether all values must be.
    totals
        Where the sums go, float64, shape (n_rows,); not filled where `indptr` is at fault.

    Returns
    -------
    int
        The sum of what is wrong, 0 if nothing is.
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
