"""kNN graph of cells in the embedding space."""

import faiss
import numpy as np
from scipy import sparse

N_NEIGHBORS = 15
_EXACT_CELLS = 50_000  # above this number, the search uses an inverted file index (IVF)
_PROBES = 32  # lists of the IVF index that are searched


def neighbor_graph(features: np.ndarray, *, n_neighbors: int = N_NEIGHBORS) -> sparse.csr_matrix:
    """Build a symmetric kNN graph by inner product.

    Parameters
    ----------
    features: float32, unit norm, shape (n_cells, width)
    n_neighbors: neighbours per cell, not counting itself

    Returns
    -------
    Symmetric weights, shape (n_cells, n_cells): 1 if each cell is a neighbour of the other, 0.5 if
    only one is.
    """
    features = np.ascontiguousarray(features, dtype=np.float32)
    n_cells = len(features)
    k = min(n_neighbors, n_cells - 1)
    if k < 1:
        return sparse.csr_matrix((n_cells, n_cells))
    _, found = _index(features).search(features, k + 1)
    cells = np.arange(n_cells)[:, None]
    # With equal cells, the cell itself may not be the first result; IVF may return too few.
    is_other = (found != cells) & (found >= 0)
    is_other &= np.cumsum(is_other, axis=1) <= k
    rows = np.nonzero(is_other)[0]
    directed = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, found[is_other])), shape=(n_cells, n_cells)
    )
    return ((directed + directed.T) / 2).tocsr()


def _index(features: np.ndarray) -> faiss.Index:
    """Build an exact index, or an IVF index for many cells."""
    exact = faiss.IndexFlatIP(features.shape[1])
    if len(features) <= _EXACT_CELLS:
        exact.add(features)
        return exact
    n_lists = int(np.sqrt(len(features)))
    index = faiss.IndexIVFFlat(exact, features.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = _PROBES
    index.train(features)
    index.add(features)
    return index
