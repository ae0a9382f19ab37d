"""Clusters of cells where a file has none that fit."""

import warnings

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

CELLS_PER_CLUSTER = 8  # on average; chosen on the validation studies
_MOST = 1000


def make_clusters(
    features: np.ndarray, *, cells_per_cluster: int = CELLS_PER_CLUSTER, seed: int = 0
) -> np.ndarray:
    """Cut cells into many clusters of a few cells, small enough to be of one type.

    On the validation studies fewer and larger ones lost rare types. k-means, which a plain install has and which gives the same clusters everywhere. Leiden needs
    two packages more: run it with scanpy and name its column instead.

    Parameters
    ----------
    features: float32, shape (n_cells, width)
    cells_per_cluster: on average; there are at most 1,000 clusters
    seed: of the first centres

    Returns
    -------
    Name of each cell's cluster, "0", "1", ..., object, shape (n_cells,)
    """
    n_clusters = min(max(1, len(features) // cells_per_cluster), _MOST)
    with warnings.catch_warnings():
        # Fewer clusters than asked for where many cells are equal, which is as it should be.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = MiniBatchKMeans(n_clusters, batch_size=4096, n_init=3, random_state=seed)
        codes = means.fit_predict(features)
    return codes.astype(str).astype(object)
