"""Compiled kernel of the tokenizer: rank the genes of each cell, in parallel over cells."""

from functools import partial

import numpy as np

from langcell.runtime.compiled import compiled
from langcell.runtime.threads import over_slices

# The bit patterns of positive floats sort like the floats. The upper 20 bits of a code are the
# distance between the bits of a value and those of the highest value: 6 bits for 64 octaves and 14
# for steps within an octave. Codes are radix-sorted by these, 10 bits at a time. Values with the
# same 20 bits are then compared exactly, so that the number of bits affects speed but not order.
# The rest of a code is the gene's position in its cell and its token.
_DIGIT_BITS = 10
_DIGITS = 1 << _DIGIT_BITS
_LAST_DIGIT = np.uint64(_DIGITS - 1)
_UPPER, _LOWER = np.uint64(64 - _DIGIT_BITS), np.uint64(64 - 2 * _DIGIT_BITS)
_FARTHEST, _LEFT_OUT = (1 << 58) - 1, 58 - 2 * _DIGIT_BITS
_TOKEN_BITS = np.uint64(22)
_TOKEN, _PLACE = np.uint64((1 << 22) - 1), np.uint64((1 << 22) - 1)
_ONE = np.uint64(1)
# For more genes with equal codes than this, heap sort is faster than insertion sort.
_LARGEST_INSERTION = 48
_CELLS_PER_TASK = 256


@compiled
def _comes_first(key: float, token: int, other_key: float, other_token: int) -> bool:
    return key > other_key or (key == other_key and token < other_token)


@compiled
def _sort_by_insertion(keys: np.ndarray, tokens: np.ndarray, size: int) -> None:
    for at in range(1, size):
        key, token = keys[at], tokens[at]
        place = at
        while place > 0 and _comes_first(key, token, keys[place - 1], tokens[place - 1]):
            keys[place], tokens[place] = keys[place - 1], tokens[place - 1]
            place -= 1
        keys[place], tokens[place] = key, token


@compiled
def _sift_down(keys: np.ndarray, tokens: np.ndarray, root: int, size: int) -> None:
    key, token = keys[root], tokens[root]
    while 2 * root + 1 < size:
        child = 2 * root + 1
        if child + 1 < size and _comes_first(
            keys[child], tokens[child], keys[child + 1], tokens[child + 1]
        ):
            child += 1
        if not _comes_first(key, token, keys[child], tokens[child]):
            break
        keys[root], tokens[root] = keys[child], tokens[child]
        root = child
    keys[root], tokens[root] = key, token


@compiled
def _sort_by_heap(keys: np.ndarray, tokens: np.ndarray, size: int) -> None:
    """Sort in O(n log n) for any keys; the root of the heap is the last element in order."""
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(keys, tokens, root, size)
    for last in range(size - 1, 0, -1):
        keys[0], keys[last] = keys[last], keys[0]
        tokens[0], tokens[last] = tokens[last], tokens[0]
        _sift_down(keys, tokens, 0, last)


@compiled
def _read_codes(
    columns: np.ndarray,
    counts: np.ndarray,
    total: float,
    column_tokens: np.ndarray,
    column_medians: np.ndarray,
    highest: int,
    keys: np.ndarray,
    codes: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
) -> np.uint64:
    """Fill in the keys of one cell, the codes of its known genes and the counts of their digits.

    Return the number of known genes.
    """
    n_columns, n_genes = np.uint64(len(columns)), np.uint64(0)
    # Separate loops, which the compiler can vectorise.
    for place in range(n_columns):
        keys[place] = column_medians[np.uint32(columns[place])]
    for place in range(n_columns):
        # Evaluated left to right, as in the reference: another order rounds differently.
        keys[place] = np.float64(counts[place]) / total * 1e4 / keys[place]
    bits = keys.view(np.int64)
    for place in range(n_columns):
        steps = min(max(highest - bits[place], 0), _FARTHEST) >> _LEFT_OUT
        codes[place] = (np.uint64(steps) << _LOWER) | (place << _TOKEN_BITS)
    for place in range(n_columns):
        token = column_tokens[np.uint32(columns[place])]  # unsigned: no check for negative indices
        codes[n_genes] = codes[place] | (np.uint64(token) & _TOKEN)
        # Adds 0 or 1 without a branch; after a 0 the next gene overwrites this code.
        n_genes += np.uint64((token >= 0) & (counts[place] != 0))
    for gene in range(n_genes):
        lower[(codes[gene] >> _LOWER) & _LAST_DIGIT] += np.uint32(1)
        upper[codes[gene] >> _UPPER] += np.uint32(1)
    return n_genes


@compiled
def _order(
    codes: np.ndarray, n_genes: np.uint64, shift: np.uint64, sizes: np.ndarray, ordered: np.ndarray
) -> None:
    """Sort codes by one digit, stably (one radix pass); `sizes` is zero afterwards."""
    start = np.uint32(0)
    for digit in range(_DIGITS):
        size = sizes[digit]
        sizes[digit] = start
        start += size
    for gene in range(n_genes):
        digit = (codes[gene] >> shift) & _LAST_DIGIT
        ordered[sizes[digit]] = codes[gene]
        sizes[digit] += np.uint32(1)
    sizes[:] = 0


@compiled
def _write_tokens(
    codes: np.ndarray,
    n_genes: np.uint64,
    keys: np.ndarray,
    same: np.ndarray,
    same_keys: np.ndarray,
    same_tokens: np.ndarray,
    ranked: np.ndarray,
) -> None:
    """Write the tokens of sorted codes to `ranked`, as many as it holds."""
    n_wanted, n_same = np.uint64(len(ranked)), np.uint64(0)
    for gene in range(n_wanted):
        ranked[gene] = codes[gene] & _TOKEN
    # Find genes with the same 20 bits as the gene before; branch-free, as branches would mispredict.
    for gene in range(_ONE, n_genes):
        same[n_same] = gene
        n_same += np.uint64(codes[gene] >> _LOWER == codes[gene - _ONE] >> _LOWER)
    at = np.uint64(0)
    while at < n_same and same[at] <= n_wanted:
        start, stop = same[at] - _ONE, same[at] + _ONE
        at += _ONE
        while at < n_same and same[at] == stop:
            stop += _ONE
            at += _ONE
        size = stop - start
        for place in range(size):
            code = codes[start + place]
            same_keys[place] = keys[(code >> _TOKEN_BITS) & _PLACE]
            same_tokens[place] = code & _TOKEN
        if size > np.uint64(_LARGEST_INSERTION):
            _sort_by_heap(same_keys, same_tokens, size)
        else:
            _sort_by_insertion(same_keys, same_tokens, size)
        for place in range(min(size, n_wanted - start)):
            ranked[start + place] = same_tokens[place]


@compiled
def _rank_some(
    indptr: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    column_tokens: np.ndarray,
    column_medians: np.ndarray,
    highest: int,
    max_genes: int,
    places: np.ndarray,
    ranked: np.ndarray,
    lengths: np.ndarray,
    first_cell: int,
    last_cell: int,
) -> None:
    """Write the tokens of some cells to `ranked`, concatenated from the place of the first cell.

    `places` are the starts of the cells if all their genes were known. The numbers of tokens are
    written to `lengths`.
    """
    longest = np.max(indptr[first_cell + 1 : last_cell + 1] - indptr[first_cell:last_cell])
    keys, same_keys = np.empty(longest, np.float64), np.empty(longest, np.float64)
    same_tokens = np.empty(longest, np.int32)
    codes, ordered = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    lower, upper = np.zeros(_DIGITS, np.uint32), np.zeros(_DIGITS, np.uint32)
    start = places[first_cell]
    for cell in range(first_cell, last_cell):
        first, last = indptr[cell], indptr[cell + 1]
        n_genes = _read_codes(
            columns[first:last],
            counts[first:last],
            totals[cell],
            column_tokens,
            column_medians,
            highest,
            keys,
            codes,
            lower,
            upper,
        )
        _order(codes, n_genes, _LOWER, lower, ordered)
        _order(ordered, n_genes, _UPPER, upper, codes)
        stop = start + min(np.int64(n_genes), max_genes)
        _write_tokens(codes, n_genes, keys, ordered, same_keys, same_tokens, ranked[start:stop])
        lengths[cell] = stop - start
        start = stop


def rank_cells(
    indptr: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    column_tokens: np.ndarray,
    column_medians: np.ndarray,
    *,
    max_genes: int,
    dtype: type[np.unsignedinteger] | type[np.signedinteger],
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the genes of each cell by count / total x 10,000 / median, highest first.

    Rank-value encoding of Geneformer (Theodoris et al. 2023, Methods) in float64, evaluated left to
    right. Equal values are ordered by token id, so the result does not depend on the column order.

    Runs in Python threads (`langcell.runtime.threads.over_slices`).

    Parameters
    ----------
    indptr, columns, counts
        The arrays of a CSR matrix of cells; counts must not be negative.
    totals
        Total count of each cell, float64, shape (n_cells,).
    column_tokens
        Token of each column, -1 if the gene is unknown, int64, shape (n_columns,).
    column_medians
        Corpus median of each column's gene, float64, shape (n_columns,).
    max_genes
        Maximum number of genes per cell.
    dtype
        Integer dtype of the tokens.

    Returns
    -------
    tuple of numpy.ndarray
        Tokens of all cells, concatenated, shape (n_tokens,), and the start of each cell, int64,
        shape (n_cells + 1,).

    Raises
    ------
    ValueError
        If there are more than four million columns or tokens, which the codes cannot hold.
    """
    if max(len(column_tokens), column_tokens.max(initial=0)) > _TOKEN:
        raise ValueError(
            f"columns and tokens must number at most {int(_TOKEN):,}, got {len(column_tokens):,}"
            f" columns and tokens up to {column_tokens.max(initial=0):,}"
        )
    n_cells = len(totals)
    places, offsets = np.zeros(n_cells + 1, np.int64), np.zeros(n_cells + 1, np.int64)
    np.cumsum(np.minimum(np.diff(indptr), max_genes), out=places[1:])
    ranked = np.empty(places[-1], dtype)
    rank_some = partial(
        _rank_some,
        indptr,
        columns,
        counts,
        totals,
        column_tokens.astype(np.int32),
        column_medians,
        _highest_key(column_tokens, column_medians),
        max_genes,
        places,
        ranked,
        offsets[1:],
    )
    over_slices(rank_some, n_cells, size=_CELLS_PER_TASK)
    np.cumsum(offsets, out=offsets)
    for first in range(0, n_cells, _CELLS_PER_TASK):  # remove the gaps between slices
        last = min(n_cells, first + _CELLS_PER_TASK)
        if places[first] != offsets[first]:
            tokens = ranked[places[first] :][: offsets[last] - offsets[first]]
            ranked[offsets[first] : offsets[last]] = tokens
    return ranked[: offsets[-1]].copy(), offsets


def _highest_key(column_tokens: np.ndarray, column_medians: np.ndarray) -> int:
    """Return the bits of a value that few keys exceed; those that do are compared exactly."""
    medians = column_medians[column_tokens >= 0]
    highest = np.array([1e4 / medians.min() if len(medians) else 1.0])
    return int(highest.view(np.int64)[0])
