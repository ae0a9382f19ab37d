"""Hash keys of cells: for their shuffled order, and for their content."""

import numpy as np

from langcell.runtime.compiled import compiled
from langcell.runtime.threads import over_slices

_CELLS_PER_TASK = 1024
# SplitMix64 (Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators).
_STEP, _FIRST, _SECOND = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Return well-mixed bits of uint64 numbers; different numbers stay different."""
    bits = numbers + _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


def shuffle_keys(seed: int, number: int, rows: np.ndarray) -> np.ndarray:
    """Return the keys by which cells of a corpus are sorted to shuffle them, uint64.

    A key depends only on the seed, the number of the input and the row in it, and not on which
    process computes it or in which order.
    """
    start = mixed(np.array([seed], np.uint64))
    start = mixed(start ^ np.uint64(number))
    return mixed(start ^ rows.astype(np.uint64))


def uniforms(seed: int, number: int, rows: np.ndarray) -> np.ndarray:
    """Return a hash-based uniform number in [0, 1) for each row, float64."""
    return (shuffle_keys(seed, number, rows) >> np.uint64(11)) * 2.0**-53


def content_keys(
    indptr: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    gene_bits: np.ndarray,
    *,
    min_genes: int,
) -> np.ndarray:
    """Return a hash of each cell's content, equal for equal counts of the compared genes.

    Column order and genes that are not compared do not matter. Two different cells collide with
    chance 2^-64.

    Parameters
    ----------
    indptr, columns, counts
        Arrays of a CSR matrix of cells; columns of the same gene are already summed.
    gene_bits
        Hash of the gene of each column, 0 if it is not compared, uint64.
    min_genes
        Compared genes that a cell must express: with fewer, different cells may well be equal.

    Returns
    -------
    numpy.ndarray
        uint64, shape (n_cells,); 0 where fewer than `min_genes` compared genes are expressed.
    """
    keys = np.zeros(len(indptr) - 1, np.uint64)

    def hash_slice(start: int, stop: int) -> None:
        _sum_bits(indptr, columns, counts, gene_bits, min_genes, keys, start, stop)

    if len(keys):
        over_slices(hash_slice, len(keys), size=_CELLS_PER_TASK)
    return keys


def sequence_keys(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return a hash of each token sequence, uint64, equal for equal sequences."""
    lengths = np.diff(offsets)
    places = np.arange(len(tokens), dtype=np.uint64) - np.repeat(
        offsets[:-1].astype(np.uint64), lengths
    )
    bits = mixed(mixed(tokens.astype(np.uint64) + _STEP) ^ places)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(bits, dtype=np.uint64)])
    return sums[offsets[1:]] - sums[offsets[:-1]]


@compiled
def _sum_bits(
    indptr: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    gene_bits: np.ndarray,
    min_genes: int,
    keys: np.ndarray,
    first: int,
    last: int,
) -> None:
    for cell in range(first, last):
        total, n_genes = np.uint64(0), 0
        here = columns[indptr[cell] : indptr[cell + 1]]
        held = counts[indptr[cell] : indptr[cell + 1]]
        for place in range(len(here)):
            gene = gene_bits[np.uint32(here[place])]
            # In 65,536ths, so that single and double precision give the same.
            value = np.uint64(np.int64(np.float64(held[place]) * 65536.0 + 0.5))
            mix = (gene ^ value) + np.uint64(0x9E3779B97F4A7C15)
            mix = (mix ^ (mix >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mix = (mix ^ (mix >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            # A multiplication instead of a branch, so that the loop is vectorised (SIMD).
            is_compared = (gene != 0) & (held[place] != 0)
            total += (mix ^ (mix >> np.uint64(31))) * np.uint64(is_compared)
            n_genes += is_compared
        if n_genes >= min_genes:
            keys[cell] = total
