"""Which cells lie near each other in the common space."""

import faiss
import numpy as np
from scipy import sparse

N_NEIGHBORS = 15
_EXACT_CELLS = 50_000  # more are searched in cells of a coarse grid
_PROBES = 32  # of which so many are looked at


def neighbor_graph(features: np.ndarray, *, n_neighbors: int = N_NEIGHBORS) -> sparse.csr_matrix:
    """Connect each cell with its nearest by inner product.

    Parameters
    ----------
    features: float32, unit norm, shape (n_cells, width)
    n_neighbors: of each cell, itself not counted

    Returns
    -------
    Symmetric weights, shape (n_cells, n_cells): 1 where both cells are among the nearest of the
    other, 0.5 where one is.
    """
    features = np.ascontiguousarray(features, dtype=np.float32)
    n_cells = len(features)
    k = min(n_neighbors, n_cells - 1)
    if k < 1:
        return sparse.csr_matrix((n_cells, n_cells))
    _, found = _index(features).search(features, k + 1)
    cells = np.arange(n_cells)[:, None]
    # Of many equal cells the search may name others before the cell itself, or too few in a grid.
    is_other = (found != cells) & (found >= 0)
    is_other &= np.cumsum(is_other, axis=1) <= k
    rows = np.nonzero(is_other)[0]
    directed = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, found[is_other])), shape=(n_cells, n_cells)
    )
    return ((directed + directed.T) / 2).tocsr()


def _index(features: np.ndarray) -> faiss.Index:
    """Return the cells in an exact index, or in one that looks at a part of many cells."""
    exact = faiss.IndexFlatIP(features.shape[1])
    if len(features) <= _EXACT_CELLS:
        exact.add(features)
        return exact
    n_lists = int(np.sqrt(len(features)))
    grid = faiss.IndexIVFFlat(exact, features.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT)
    grid.nprobe = _PROBES
    grid.train(features)
    grid.add(features)
    return grid
