"""Smooth scores on a kNN graph of the cells."""

import numpy as np
from scipy import sparse

from zeroshot.decide.options import STRENGTH
from zeroshot.results.cell_scores import CellScores

_COLUMNS = 16  # columns solved at once: memory is a few times n_cells x 16 float64
_TOLERANCE = 1e-8  # of the relative residual; scores are written with five decimals
_MOST_STEPS = 1000


def smooth_scores(
    scores: CellScores, graph: sparse.spmatrix | np.ndarray, *, strength: float = STRENGTH
) -> CellScores:
    """Return (I + strength L)^-1 P, with as many candidates per cell as P.

    Hu et al. 2025 (GRIT, arXiv 2508.04747): the P' that minimises the squared distance to P plus
    `strength` times the squared differences along the edges. L = I - D^-1 W is the random-walk
    normalised Laplacian, so the sum of a row of P' is a weighted average of row sums of P. A cell
    without neighbours keeps its scores.

    Parameters
    ----------
    scores: P, scores of single cells
    graph: edge weights W, not negative, shape (n_cells, n_cells)
    strength: lambda; 0 changes nothing

    Raises
    ------
    ValueError
        If the graph has the wrong shape or negative weights, or the strength is negative.
    """
    weights = sparse.csr_matrix(graph, dtype=np.float64)
    _check(scores, weights, strength)
    weights = (weights + weights.T) / 2
    degrees = np.asarray(weights.sum(axis=1)).ravel()
    isolated = degrees == 0
    weights, degrees = weights + sparse.diags(isolated.astype(float)), degrees + isolated
    root = np.sqrt(degrees)
    # With y = D^1/2 p' the system is symmetric: ((1 + strength) I - strength S) y = D^1/2 p.
    similarity = (sparse.diags(1 / root) @ weights @ sparse.diags(1 / root)).tocsr()
    columns = np.flatnonzero(scores.probabilities.getnnz(axis=0))
    by_column = scores.probabilities.tocsc()
    best = _BestColumns(len(scores), int(scores.n_stored.max(initial=1)))
    for start in range(0, len(columns), _COLUMNS):
        block = columns[start : start + _COLUMNS]
        given = by_column[:, block].toarray().astype(np.float64) * root[:, None]
        best.add(_solve(similarity, given, strength) / root[:, None], block)
    return scores.with_probabilities(best.to_csr(scores.probabilities.shape[1]))


def _check(scores: CellScores, graph: sparse.csr_matrix, strength: float) -> None:
    if graph.shape != (len(scores), len(scores)):
        raise ValueError(
            f"graph must have shape ({len(scores)}, {len(scores)}), one row per cell, got {graph.shape}"
        )
    if graph.nnz and graph.min() < 0:
        raise ValueError(f"the weights of the graph must not be negative, got {graph.min()}")
    if not strength >= 0:
        raise ValueError(f"strength must not be negative, got {strength}")


def _solve(similarity: sparse.csr_matrix, given: np.ndarray, strength: float) -> np.ndarray:
    """Solve ((1 + strength) I - strength S) y = given by conjugate gradient, column by column.

    The eigenvalues are between 1 and 1 + 2 strength, so few steps suffice without preconditioner.
    """

    def applied(vectors: np.ndarray) -> np.ndarray:
        return (1 + strength) * vectors - strength * (similarity @ vectors)

    solution = given / (1 + strength)
    residual = given - applied(solution)  # (n_cells, n_columns)
    direction = residual.copy()
    squares = _dots(residual, residual)
    enough = _TOLERANCE**2 * _dots(given, given)
    for _ in range(_MOST_STEPS):
        active = squares > enough  # converged columns do not change any more
        if not active.any():
            return solution
        image = applied(direction)
        step = np.where(active, squares, 0) / np.where(active, _dots(direction, image), 1)
        solution += step * direction
        residual -= step * image
        before, squares = squares, np.where(active, _dots(residual, residual), squares)
        direction = (
            residual + np.where(active, squares / np.where(active, before, 1), 0) * direction
        )
    raise RuntimeError(f"conjugate gradient did not converge in {_MOST_STEPS} steps")


def _dots(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->j", first, second)


class _BestColumns:
    """Keeps the k largest entries per row of a matrix that is added a few columns at a time."""

    def __init__(self, n_rows: int, k: int) -> None:
        self._values = np.zeros((n_rows, k))
        self._columns = np.full((n_rows, k), -1, dtype=np.int32)

    def add(self, values: np.ndarray, columns: np.ndarray) -> None:
        k = self._values.shape[1]
        all_values = np.hstack([self._values, values])  # (n_rows, k + n_columns)
        new = np.broadcast_to(columns.astype(np.int32), values.shape)
        all_columns = np.hstack([self._columns, new])
        kept = np.argpartition(-all_values, k - 1, axis=1)[:, :k]
        self._values = np.take_along_axis(all_values, kept, axis=1)
        self._columns = np.take_along_axis(all_columns, kept, axis=1)

    def to_csr(self, width: int) -> sparse.csr_matrix:
        order = np.argsort(self._columns, axis=1)
        values = np.take_along_axis(self._values, order, axis=1)
        columns = np.take_along_axis(self._columns, order, axis=1)
        kept = (columns >= 0) & (values > 0)
        indptr = np.append(0, np.cumsum(kept.sum(axis=1)))
        return sparse.csr_matrix((values[kept], columns[kept], indptr), (len(values), width))
