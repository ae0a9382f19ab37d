"""Compiled kernel of a bag of genes: from ranked tokens to features."""

import math

import numpy as np

from langcell.runtime.compiled import compiled

_BLOCK_ROWS = 16  # rows multiplied by a few rows of a weight while these are in the cache
_MIN_NORM = 1e-12  # as in torch.nn.functional.normalize


@compiled
def _average(
    tokens: np.ndarray, embeddings: np.ndarray, discounts: np.ndarray, mean: np.ndarray
) -> None:
    """Compute the mean embedding of a cell's genes, weighted by the discounts of their ranks."""
    n_genes, width = len(tokens), len(mean)
    mean[:] = np.float32(0)
    total = 0.0
    # Four genes at a time, so that the sums are read and written a quarter as often.
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
def _add_products(rows: np.ndarray, weight: np.ndarray, sums: np.ndarray) -> None:
    """Add rows @ weight to `sums`, always in the order of the inputs."""
    n_inputs, width = weight.shape
    for first_row in range(0, len(rows), _BLOCK_ROWS):
        last_row = min(len(rows), first_row + _BLOCK_ROWS)
        for k in range(0, n_inputs - n_inputs % 4, 4):
            first, second, third, fourth = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
            for row in range(first_row, last_row):
                a, b, c, d = rows[row, k], rows[row, k + 1], rows[row, k + 2], rows[row, k + 3]
                out = sums[row]
                for i in range(width):
                    out[i] += a * first[i] + b * second[i] + c * third[i] + d * fourth[i]
        for k in range(n_inputs - n_inputs % 4, n_inputs):
            first = weight[k]
            for row in range(first_row, last_row):
                a = rows[row, k]
                out = sums[row]
                for i in range(width):
                    out[i] += a * first[i]


@compiled
def _gelu(values: np.ndarray) -> None:
    """Apply exact GELU (Hendrycks and Gimpel 2016) to rows in place."""
    half, root = np.float32(0.5), np.float32(math.sqrt(0.5))
    for row in range(len(values)):
        for i in range(values.shape[1]):
            value = values[row, i]
            values[row, i] = half * value * (np.float32(1) + math.erf(value * root))


@compiled
def _to_unit_norm(rows: np.ndarray) -> None:
    for row in range(len(rows)):
        squares = 0.0
        for i in range(rows.shape[1]):
            squares += rows[row, i] ** 2
        factor = np.float32(1 / max(math.sqrt(squares), _MIN_NORM))
        for i in range(rows.shape[1]):
            rows[row, i] *= factor


@compiled
def encode(
    tokens: np.ndarray,
    offsets: np.ndarray,
    embeddings: np.ndarray,
    discounts: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    eps: float,
    hidden_weight: np.ndarray,
    hidden_bias: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Embed cells: weighted mean, LayerNorm, GELU layer concatenated, projection, unit norm.

    The order of summation is fixed, so that the bits of a cell do not depend on the other cells;
    with BLAS they depend on the row of the cell.

    Parameters
    ----------
    tokens
        Genes of all cells, concatenated, highest rank of each cell first, int, shape (n_tokens,).
    offsets
        Start of each cell in `tokens`, int64, shape (n_cells + 1,).
    embeddings
        float32, shape (vocab_size, hidden_size).
    discounts
        Weight of each rank, float32, at least as many as the longest cell has genes. The mean of a
        cell without genes is zero.
    scale, shift, eps
        Parameters of the LayerNorm, float32, shape (hidden_size,).
    hidden_weight, hidden_bias
        Parameters of the GELU layer, float32, shapes (hidden_size, bag_size) and (bag_size,).
    weight, bias
        Parameters of the projection, float32, shapes (hidden_size + bag_size, width) and (width,).
    out
        Output features, float32, shape (n_cells, width).
    """
    n_cells, hidden_size = len(offsets) - 1, embeddings.shape[1]
    means = np.empty((n_cells, hidden_size), np.float32)
    hidden = np.empty((n_cells, len(hidden_bias)), np.float32)
    for cell in range(n_cells):
        genes = tokens[offsets[cell] : offsets[cell + 1]]
        _average(genes, embeddings, discounts, means[cell])
        _normalise(means[cell], scale, shift, eps)
    hidden[:] = hidden_bias
    _add_products(means, hidden_weight, hidden)
    _gelu(hidden)
    out[:] = bias
    _add_products(means, weight[:hidden_size], out)
    _add_products(hidden, weight[hidden_size:], out)
    _to_unit_norm(out)
