"""Per-gene medians from histograms, in memory independent of the number of values."""

import numpy as np

from langcell.runtime.compiled import compiled

# Bins are the top bits of a float32: 2 to the 5th bins per octave, each at most 3 % wide. Counts
# per 10,000 below 2^-10 or above 2^14 share the first and last bin.
_MANTISSA_BITS = 5
_SHIFT = 23 - _MANTISSA_BITS
_LOWEST = int(np.float32(2.0**-10).view(np.int32)) >> _SHIFT
N_BINS = 24 << _MANTISSA_BITS


class ValueHistogram:
    """Histogram of the positive values of each gene.

    Histograms can be added in any order, so the medians do not depend on how work was divided.

    Parameters
    ----------
    n_genes
        Number of genes.

    Attributes
    ----------
    counts
        Counts per gene and bin, int32, shape (n_genes, N_BINS).
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
        """Add the positive values of cells, per 10,000 of the cell's total.

        Parameters
        ----------
        indptr, columns, values
            Arrays of a CSR matrix of cells.
        totals
            Total of each cell, shape (n_cells,).
        genes
            Gene of each column, -1 to ignore it, shape (n_columns,).
        """
        _count(indptr, columns, values, totals, genes, self.counts)

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the flat indices and values of the nonzero counts."""
        return _pack(self.counts.reshape(-1))

    def add_packed(self, places: np.ndarray, counts: np.ndarray) -> None:
        """Add a packed histogram."""
        self.counts.reshape(-1)[places] += counts

    def n_values(self) -> np.ndarray:
        """Return the number of values of each gene, shape (n_genes,)."""
        return self.counts.sum(axis=1)

    def medians(self) -> np.ndarray:
        """Return the median of each gene, NaN where it has no value, float64, shape (n_genes,).

        Values are assumed to be uniform within a bin, so the error is well below the bin width.
        """
        totals = self.n_values()
        bins, before = np.zeros(len(totals), np.int64), np.zeros(len(totals), np.int64)
        _find_median_bins(self.counts, totals, bins, before)
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
def _find_median_bins(
    counts: np.ndarray, totals: np.ndarray, bins: np.ndarray, before: np.ndarray
) -> None:
    """Find the bin of each gene's median, and the number of values in lower bins."""
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
