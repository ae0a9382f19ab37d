"""The compiled core of a bag of genes: weighted means of embeddings, LayerNorm and GELU."""

import math

import numpy as np

from langcell.rank_kernel import compiled


@compiled
def _average(
    tokens: np.ndarray, embeddings: np.ndarray, discounts: np.ndarray, mean: np.ndarray
) -> None:
    """Add up the embeddings of one cell's genes, each by the discount of its rank, to a mean."""
    n_genes, width = len(tokens), len(mean)
    mean[:] = np.float32(0)
    total = 0.0
    # Four genes at once, so that the sums are read and written a quarter as often.
    for rank in range(0, n_genes - n_genes % 4, 4):
        a, b, c, d = discounts[rank : rank + 4]
        first, second = embeddings[tokens[rank]], embeddings[tokens[rank + 1]]
        third, fourth = embeddings[tokens[rank + 2]], embeddings[tokens[rank + 3]]
        for i in range(width):
            mean[i] += a * first[i] + b * second[i] + c * third[i] + d * fourth[i]
        total += a + b + c + d
    for rank in range(n_genes - n_genes % 4, n_genes):
        weight, embedding = discounts[rank], embeddings[tokens[rank]]
        for i in range(width):
            mean[i] += weight * embedding[i]
        total += weight
    if n_genes > 0:
        scale = np.float32(1 / total)
        for i in range(width):
            mean[i] *= scale


@compiled
def _normalise(values: np.ndarray, scale: np.ndarray, shift: np.ndarray, eps: float) -> None:
    """Apply LayerNorm (Ba et al. 2016) to one row in place."""
    width = len(values)
    total = squares = 0.0
    for i in range(width):
        total += values[i]
    mean = total / width
    for i in range(width):
        squares += (values[i] - mean) ** 2
    factor = 1 / math.sqrt(squares / width + eps)
    for i in range(width):
        values[i] = np.float32((values[i] - mean) * factor) * scale[i] + shift[i]


@compiled
def average_genes(
    tokens: np.ndarray,
    offsets: np.ndarray,
    embeddings: np.ndarray,
    discounts: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    eps: float,
    out: np.ndarray,
) -> None:
    """Average the embeddings of each cell's genes by rank and apply LayerNorm.

    Parameters
    ----------
    tokens
        Genes of all cells end to end, each cell's highest rank first, int, shape (n_tokens,).
    offsets
        Where each cell begins, int64, shape (n_cells + 1,).
    embeddings
        float32, shape (vocab_size, hidden_size).
    discounts
        What the gene of each rank weighs, float32, as many as the longest cell has genes.
    scale, shift, eps
        Of the LayerNorm, float32, shape (hidden_size,).
    out
        float32, at least n_cells rows; filled are the first hidden_size columns of the first
        n_cells. A cell without genes is an average of zero.
    """
    for cell in range(len(offsets) - 1):
        genes = tokens[offsets[cell] : offsets[cell + 1]]
        mean = out[cell, : len(scale)]
        _average(genes, embeddings, discounts, mean)
        _normalise(mean, scale, shift, eps)


@compiled
def gelu(sums: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Write GELU(sums + bias), exact (Hendrycks and Gimpel 2016), to the last columns of `out`.

    Parameters
    ----------
    sums, bias
        float32, shapes (n_rows, width) and (width,).
    out
        float32, n_rows rows of at least `width` columns.
    """
    half, root = np.float32(0.5), np.float32(math.sqrt(0.5))
    first = out.shape[1] - len(bias)
    for row in range(len(sums)):
        for i in range(len(bias)):
            value = sums[row, i] + bias[i]
            out[row, first + i] = half * value * (np.float32(1) + math.erf(value * root))
