"""The compiled core of the tokenizer: rank the genes of each cell, in parallel over cells."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np

from langcell.threads import over_slices

# Bits of positive floats order as the floats do. Keys that share exponent and 9 bits of mantissa
# share a bucket; within one they are sorted by their whole value, so that the number of buckets
# changes the speed and never the order.
_SHIFT = 52 - 9
_N_BUCKETS = 16384
# Beyond this many genes in one bucket, insertion costs more than a heap.
_LARGEST_INSERTION = 48
_CELLS_PER_TASK = 256


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with a cache on disk where numba finds a place to write, else without.

    Divisions are those of the processor: to ask each divisor whether it is zero costs as much.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def _comes_first(key: float, token: int, other_key: float, other_token: int) -> bool:
    return key > other_key or (key == other_key and token < other_token)


@compiled
def _sort_by_insertion(keys: np.ndarray, tokens: np.ndarray, start: int, stop: int) -> None:
    for at in range(start + 1, stop):
        key, token = keys[at], tokens[at]
        if key < keys[at - 1]:
            continue
        place = at
        while place > start and _comes_first(key, token, keys[place - 1], tokens[place - 1]):
            keys[place], tokens[place] = keys[place - 1], tokens[place - 1]
            place -= 1
        keys[place], tokens[place] = key, token


@compiled
def _sift_down(keys: np.ndarray, tokens: np.ndarray, start: int, root: int, size: int) -> None:
    key, token = keys[start + root], tokens[start + root]
    while 2 * root + 1 < size:
        child = 2 * root + 1
        at = start + child
        if child + 1 < size and _comes_first(keys[at], tokens[at], keys[at + 1], tokens[at + 1]):
            child += 1
            at += 1
        if not _comes_first(key, token, keys[at], tokens[at]):
            break
        keys[start + root], tokens[start + root] = keys[at], tokens[at]
        root = child
    keys[start + root], tokens[start + root] = key, token


@compiled
def _sort_by_heap(keys: np.ndarray, tokens: np.ndarray, start: int, stop: int) -> None:
    """Sort in n log n whatever the keys; the root of the heap is what comes last."""
    size = stop - start
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(keys, tokens, start, root, size)
    for last in range(size - 1, 0, -1):
        at = start + last
        keys[start], keys[at] = keys[at], keys[start]
        tokens[start], tokens[at] = tokens[at], tokens[start]
        _sift_down(keys, tokens, start, 0, last)


@compiled
def _read_keys(
    columns: np.ndarray,
    counts: np.ndarray,
    total: float,
    column_tokens: np.ndarray,
    column_medians: np.ndarray,
    keys: np.ndarray,
    tokens: np.ndarray,
) -> int:
    """Fill in the keys and tokens of one cell's known genes; return how many they are."""
    n_genes = 0
    for place in range(len(columns)):
        column = np.uint32(columns[place])  # unsigned: no test for numbers from the end
        token = column_tokens[column]
        # Left to right, as the reference does: another order rounds differently.
        keys[n_genes] = np.float64(counts[place]) / total * 1e4 / column_medians[column]
        tokens[n_genes] = token
        n_genes += (token >= 0) & (counts[place] != 0)  # else the next gene takes the place
    return n_genes


@compiled
def _sort_highest(
    keys: np.ndarray,
    tokens: np.ndarray,
    n_wanted: int,
    sorted_keys: np.ndarray,
    sorted_tokens: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Sort the highest `n_wanted` genes of one cell into the front of `sorted_*`.

    `ends` is all zero, and left so.
    """
    bits = keys.view(np.int64)
    top = bits.max() >> _SHIFT
    n_used = 0
    for i in range(len(keys)):
        bucket = min(top - (bits[i] >> _SHIFT), _N_BUCKETS - 1)
        ends[bucket] += 1
        n_used = max(n_used, bucket + 1)
    start, largest = 0, 0
    for bucket in range(n_used):
        size = ends[bucket]
        ends[bucket] = start
        start += size
        largest = max(largest, size)
    # `ends` is now where a bucket begins, and becomes where it ends as it is filled.
    for i in range(len(keys)):
        bucket = min(top - (bits[i] >> _SHIFT), _N_BUCKETS - 1)
        place = ends[bucket]
        ends[bucket] = place + 1
        sorted_keys[place], sorted_tokens[place] = keys[i], tokens[i]
    if largest <= _LARGEST_INSERTION:
        # One insertion over all: buckets stand in order, so nothing moves out of its own.
        last = sorted_keys[n_wanted - 1 : n_wanted].view(np.int64)[0]
        stop = ends[min(top - (last >> _SHIFT), _N_BUCKETS - 1)]
        _sort_by_insertion(sorted_keys, sorted_tokens, 0, stop)
    else:
        _sort_buckets(sorted_keys, sorted_tokens, n_wanted, ends[:n_used])
    ends[:n_used] = 0


@compiled
def _sort_buckets(keys: np.ndarray, tokens: np.ndarray, n_wanted: int, ends: np.ndarray) -> None:
    """Sort each bucket by itself, some of which hold many genes, until enough are in order."""
    start = 0
    for stop in ends:
        if start < n_wanted and stop - start > _LARGEST_INSERTION:
            _sort_by_heap(keys, tokens, start, stop)
        elif start < n_wanted:
            _sort_by_insertion(keys, tokens, start, stop)
        start = stop


@compiled
def _rank_some(
    indptr: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    column_tokens: np.ndarray,
    column_medians: np.ndarray,
    places: np.ndarray,
    ranked: np.ndarray,
    lengths: np.ndarray,
    first_cell: int,
    last_cell: int,
) -> None:
    """Write the tokens of some cells to `ranked` from `places[cell]` on, how many to `lengths`."""
    longest = np.max(indptr[first_cell + 1 : last_cell + 1] - indptr[first_cell:last_cell])
    keys, sorted_keys = np.empty(longest, np.float64), np.empty(longest, np.float64)
    tokens, sorted_tokens = np.empty(longest, np.int32), np.empty(longest, np.int32)
    ends = np.zeros(_N_BUCKETS, np.int32)
    for cell in range(first_cell, last_cell):
        first, last = indptr[cell], indptr[cell + 1]
        n_genes = _read_keys(
            columns[first:last],
            counts[first:last],
            totals[cell],
            column_tokens,
            column_medians,
            keys,
            tokens,
        )
        n_wanted = min(n_genes, places[cell + 1] - places[cell])
        lengths[cell] = n_wanted
        if n_wanted > 0:
            _sort_highest(
                keys[:n_genes], tokens[:n_genes], n_wanted, sorted_keys, sorted_tokens, ends
            )
        for i in range(n_wanted):
            ranked[places[cell] + i] = sorted_tokens[i]


@compiled
def _close_gaps(places: np.ndarray, offsets: np.ndarray, ranked: np.ndarray) -> None:
    """Move the tokens of each cell down from `places` to `offsets`."""
    for cell in range(len(offsets) - 1):
        start = offsets[cell]
        for i in range(offsets[cell + 1] - start):
            ranked[start + i] = ranked[places[cell] + i]


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
    right; equal values are ordered by token id, so the order does not depend on the columns'.

    Plain threads do the work (`langcell.threads.over_slices`).

    Parameters
    ----------
    indptr, columns, counts
        The cells as the arrays of a CSR matrix; counts are not negative.
    totals
        Total count of each cell, float64, shape (n_cells,).
    column_tokens
        Token of each column, -1 where the gene is unknown, int64, shape (n_columns,).
    column_medians
        Corpus median of each column's gene, float64, shape (n_columns,).
    max_genes
        Keep at most so many genes of a cell.
    dtype
        Integer type of the tokens.

    Returns
    -------
    tuple of numpy.ndarray
        Tokens of all cells end to end, shape (n_tokens,), and where each cell begins, int64,
        shape (n_cells + 1,).
    """
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
        places,
        ranked,
        offsets[1:],
    )
    over_slices(rank_some, n_cells, size=_CELLS_PER_TASK)
    np.cumsum(offsets, out=offsets)
    _close_gaps(places, offsets, ranked)
    return ranked[: offsets[-1]].copy(), offsets
