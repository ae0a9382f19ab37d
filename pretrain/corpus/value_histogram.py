"""Medians of very many values of very many genes, in memory that does not grow with them."""

import numpy as np

from langcell.runtime.compiled import compiled

# Bins are the top bits of a float32: 2 to the 5th bins an octave, each 3 % wide or less. Counts
# per 10,000 below 2^-10 or above 2^14 share the first and last bin.
_MANTISSA_BITS = 5
_SHIFT = 23 - _MANTISSA_BITS
_LOWEST = int(np.float32(2.0**-10).view(np.int32)) >> _SHIFT
N_BINS = 24 << _MANTISSA_BITS


class ValueHistogram:
    """How often each gene had which positive value.

    Histograms of parts add up to that of the whole in any order, so that the medians do not depend
    on how the work was shared out.

    Parameters
    ----------
    n_genes
        How many genes there are.

    Attributes
    ----------
    counts
        int32, shape (n_genes, N_BINS).
    """

    def __init__(self, n_genes: int) -> None:
        self.counts = np.zeros((n_genes, N_BINS), dtype=np.int32)

    def add(
        self,
        indptr: np.ndarray,
        columns: np.ndarray,
        values: np.ndarray,
        totals: np.ndarray,
        genes: np.ndarray,
    ) -> None:
        """Count the positive values of cells, per 10,000 of the cell's total.

        Parameters
        ----------
        indptr, columns, values
            The cells as the arrays of a CSR matrix.
        totals
            Of each cell, shape (n_cells,).
        genes
            Gene of each column, -1 for one that does not count, shape (n_columns,).
        """
        _count(indptr, columns, values, totals, genes, self.counts)

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places that are not 0 and what stands there: most do not."""
        return _pack(self.counts.reshape(-1))

    def add_packed(self, places: np.ndarray, counts: np.ndarray) -> None:
        """Add another histogram."""
        self.counts.reshape(-1)[places] += counts

    def n_values(self) -> np.ndarray:
        """Count the values of each gene, shape (n_genes,)."""
        return self.counts.sum(axis=1)

    def medians(self) -> np.ndarray:
        """Return the median of each gene, NaN where it has no value, float64, shape (n_genes,).

        Within a bin values are taken to lie evenly, so that the error is well below the width of
        the bin.
        """
        totals = self.n_values()
        bins, before = np.zeros(len(totals), np.int64), np.zeros(len(totals), np.int64)
        _find_middles(self.counts, totals, bins, before)
        inside = self.counts[np.arange(len(totals)), bins]
        share = (totals / 2 - before) / np.maximum(inside, 1)
        edges = ((np.arange(N_BINS + 1) + _LOWEST) << _SHIFT).astype(np.int32).view(np.float32)
        low, high = edges[bins].astype(np.float64), edges[bins + 1].astype(np.float64)
        return np.where(totals > 0, low + share * (high - low), np.nan)


@compiled
def _pack(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n_filled = 0
    for count in flat:
        n_filled += count != 0
    places, counts = np.empty(n_filled, np.int32), np.empty(n_filled, np.int32)
    at = 0
    for place in range(len(flat)):
        if flat[place] != 0:
            places[at], counts[at] = place, flat[place]
            at += 1
    return places, counts


@compiled
def _find_middles(
    counts: np.ndarray, totals: np.ndarray, bins: np.ndarray, before: np.ndarray
) -> None:
    """Find the bin that holds the middle value of each gene, and how many values lie before it."""
    for gene in range(len(totals)):
        below = 0
        for column in range(N_BINS):
            if below + counts[gene, column] >= totals[gene] / 2:
                bins[gene] = column
                break
            below += counts[gene, column]
        before[gene] = below


@compiled
def _count(
    indptr: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    totals: np.ndarray,
    genes: np.ndarray,
    counts: np.ndarray,
) -> None:
    share = np.empty(1, np.float32)
    bits = share.view(np.int32)
    for cell in range(len(totals)):
        for place in range(indptr[cell], indptr[cell + 1]):
            gene = genes[columns[place]]
            if gene >= 0 and values[place] > 0:
                share[0] = values[place] / totals[cell] * 1e4
                column = (bits[0] >> _SHIFT) - _LOWEST
                counts[gene, min(max(column, 0), N_BINS - 1)] += 1
