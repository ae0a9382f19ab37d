"""The compiled core of the tokenizer: rank the genes of each cell, in parallel over cells."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Keys that share their exponent and 8 bits of mantissa share a bucket; within one they are sorted
# by their whole value, so the number of buckets changes the speed and never the order.
_SHIFT = np.uint64(52 - 8)
_N_BUCKETS = 4096
_LAST_BUCKET = np.uint64(_N_BUCKETS - 1)
_ONE = np.uint64(1)
_CELLS_PER_TASK = 32


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile with a cache on disk, or without where no folder for it can be written."""
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def _sort_bucket(keys: np.ndarray, tokens: np.ndarray, start: int, end: int) -> None:
    """Shell sort by key descending, then token ascending: most buckets hold a few genes."""
    gap = 1
    while gap < (end - start) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(start + gap, end):
            key, token = keys[i], tokens[i]
            j = i
            while j >= start + gap and (
                keys[j - gap] < key or (keys[j - gap] == key and tokens[j - gap] > token)
            ):
                keys[j], tokens[j] = keys[j - gap], tokens[j - gap]
                j -= gap
            keys[j], tokens[j] = key, token
        gap //= 3


_sort_bucket_compiled = _compile(_sort_bucket, nogil=True)


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
        token = column_tokens[columns[place]]
        if token >= 0 and counts[place] != 0:
            # Left to right, as the reference does: another order rounds differently.
            value = np.float64(counts[place]) / total * 1e4
            keys[n_genes] = value / column_medians[columns[place]]
            tokens[n_genes] = token
            n_genes += 1
    return n_genes


_read_keys_compiled = _compile(_read_keys, nogil=True)


def _sort_highest(
    keys: np.ndarray,
    tokens: np.ndarray,
    n_wanted: int,
    sorted_keys: np.ndarray,
    sorted_tokens: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Sort the highest `n_wanted` genes of one cell into the front of `sorted_*`."""
    # The bits of positive floats sort as the floats do; bucket 0 holds the highest keys.
    bits = keys.view(np.uint64)
    top = bits.max() >> _SHIFT
    ends[:] = 0
    for i in range(len(keys)):
        ends[min(top - (bits[i] >> _SHIFT), _LAST_BUCKET) + _ONE] += 1
    n_used = 0
    while ends[n_used] < n_wanted:
        n_used += 1
        ends[n_used] += ends[n_used - 1]
    # `ends[b]` is now where bucket b begins, and becomes where it ends as it is filled.
    for i in range(len(keys)):
        bucket = min(top - (bits[i] >> _SHIFT), _LAST_BUCKET)
        if bucket < np.uint64(n_used):
            sorted_keys[ends[bucket]], sorted_tokens[ends[bucket]] = keys[i], tokens[i]
            ends[bucket] += 1
    start = 0
    for bucket in range(n_used):
        if ends[bucket] - start > 1:
            _sort_bucket_compiled(sorted_keys, sorted_tokens, start, ends[bucket])
        start = ends[bucket]


_sort_highest_compiled = _compile(_sort_highest, nogil=True)


def _rank_cells(
    indptr: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    column_tokens: np.ndarray,
    column_medians: np.ndarray,
    offsets: np.ndarray,
    ranked: np.ndarray,
) -> None:
    n_cells = len(totals)
    longest = np.max(indptr[1:] - indptr[:-1])
    for task in numba.prange((n_cells + _CELLS_PER_TASK - 1) // _CELLS_PER_TASK):
        keys, sorted_keys = np.empty(longest, np.float64), np.empty(longest, np.float64)
        tokens, sorted_tokens = np.empty(longest, np.int64), np.empty(longest, np.int64)
        ends = np.empty(_N_BUCKETS + 1, np.int64)
        for cell in range(task * _CELLS_PER_TASK, min(n_cells, (task + 1) * _CELLS_PER_TASK)):
            first, last = indptr[cell], indptr[cell + 1]
            n_wanted = offsets[cell + 1] - offsets[cell]
            if n_wanted == 0:
                continue
            n_genes = _read_keys_compiled(
                columns[first:last],
                counts[first:last],
                totals[cell],
                column_tokens,
                column_medians,
                keys,
                tokens,
            )
            _sort_highest_compiled(
                keys[:n_genes], tokens[:n_genes], n_wanted, sorted_keys, sorted_tokens, ends
            )
            for i in range(n_wanted):
                ranked[offsets[cell] + i] = sorted_tokens[i]


_rank_cells_compiled = _compile(_rank_cells, parallel=True, nogil=True)


def _count_known(
    indptr: np.ndarray, columns: np.ndarray, counts: np.ndarray, column_tokens: np.ndarray
) -> np.ndarray:
    n_known = np.zeros(len(indptr) - 1, np.int64)
    for cell in numba.prange(len(n_known)):
        for place in range(indptr[cell], indptr[cell + 1]):
            if column_tokens[columns[place]] >= 0 and counts[place] != 0:
                n_known[cell] += 1
    return n_known


_count_known_compiled = _compile(_count_known, parallel=True, nogil=True)


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
    n_known = _count_known_compiled(indptr, columns, counts, column_tokens)
    offsets = np.zeros(len(n_known) + 1, np.int64)
    np.cumsum(np.minimum(n_known, max_genes), out=offsets[1:])
    ranked = np.empty(offsets[-1], dtype)
    _rank_cells_compiled(
        indptr, columns, counts, totals, column_tokens, column_medians, offsets, ranked
    )
    return ranked, offsets
