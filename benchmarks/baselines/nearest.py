"""Baseline: k nearest training rows in principal component space."""

import numpy as np
from sklearn.decomposition import PCA

from benchmarks.baselines.baseline import BaselineMethod
from benchmarks.data.training_cells import Problem

_GENES = 4_000
_COMPONENTS = 100
_NEIGHBOURS = 60
_SHARPNESS = 20.0  # a vote weighs exp(sharpness * cosine)


def pca_knn(problem: Problem, *, seed: int = 0) -> np.ndarray:
    """Return shares of the votes, float32, shape (n_cells, n_classes).

    Neighbours have the highest cosine in principal components of standardised values. Classes without
    a neighbour are ranked by their nearest row, after all classes with one.
    """
    train, cells = problem.most_variable(_GENES).standardised()
    n_components = min(_COMPONENTS, *train.shape)
    pca = PCA(n_components, svd_solver="randomized", random_state=seed).fit(train)
    cosine = _unit(pca.transform(cells)) @ _unit(pca.transform(train)).T  # (n_cells, n_rows)
    n_neighbours = min(_NEIGHBOURS, cosine.shape[1])
    nearest = np.argpartition(-cosine, n_neighbours - 1, axis=1)[:, :n_neighbours]
    close = np.take_along_axis(cosine, nearest, axis=1)  # (n_cells, n_neighbours)
    votes = np.exp(_SHARPNESS * (close - close.max(axis=1, keepdims=True)))
    shares = np.zeros((len(cells), len(problem.classes)), dtype=np.float32)
    np.add.at(
        shares, (np.arange(len(cells))[:, None], problem.labels[nearest]), votes.astype(np.float32)
    )
    shares /= shares.sum(axis=1, keepdims=True)
    by_class = np.argsort(problem.labels, kind="stable")
    starts = np.searchsorted(problem.labels[by_class], np.arange(len(problem.classes)))
    best = np.maximum.reduceat(cosine[:, by_class], starts, axis=1)  # (n_cells, n_classes)
    return shares + (1e-6 * (best + 1)).astype(np.float32)


def _unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


METHOD = BaselineMethod(
    name="pca-knn", score=pca_knn, combine="sum", packages=("numpy", "scikit-learn")
)
