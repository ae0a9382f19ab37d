"""Cluster cells by k-means if a file has no suitable clusters."""

import warnings

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

CELLS_PER_CLUSTER = 8  # on average; chosen on the validation studies
_MOST = 1000  # clusters


def make_clusters(
    features: np.ndarray, *, cells_per_cluster: int = CELLS_PER_CLUSTER, seed: int = 0
) -> np.ndarray:
    """Cluster cells into many small clusters, so that each holds a single cell type.

    Fewer, larger clusters lost rare types on the validation studies. k-means needs no further
    packages and gives the same clusters on every machine. For Leiden clusters, run scanpy and give
    the name of its column.

    Parameters
    ----------
    features: float32, shape (n_cells, width)
    cells_per_cluster: on average; there are at most 1,000 clusters
    seed: seed of the initial centres

    Returns
    -------
    Name of each cell's cluster, "0", "1", ..., object, shape (n_cells,)
    """
    n_clusters = min(max(1, len(features) // cells_per_cluster), _MOST)
    with warnings.catch_warnings():
        # scikit-learn warns if many cells are equal and there are fewer clusters: that is fine here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = MiniBatchKMeans(n_clusters, batch_size=4096, n_init=3, random_state=seed)
        codes = means.fit_predict(features)
    return codes.astype(str).astype(object)
