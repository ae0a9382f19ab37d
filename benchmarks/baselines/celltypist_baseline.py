"""Baseline: CellTypist's own training and prediction (extra `celltypist`).

Domínguez Conde et al. 2022, Science 376:eabl5197: one logistic regression per type on scaled log
values, fitted by stochastic gradient descent, the package's option for many cells; its other trainer
passes an argument that scikit-learn 1.8 and later do not have.
"""

import logging
import warnings
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd

from benchmarks.baselines.baseline import BaselineMethod
from benchmarks.data.training_cells import Problem
from langcell.runtime.threads import thread_count

if TYPE_CHECKING:
    from celltypist import Model

_GENES = 2_000
_EPOCHS = 4
_ALPHA = 1e-2  # own-label macro-F1 on three studies 0.47, at 1e-3 0.16, at 3e-2 0.42


def train_celltypist(problem: Problem, *, seed: int = 0) -> "Model":
    """Train the package's own model on the most variable genes of a problem."""
    with warnings.catch_warnings():
        # Importing the package emits warnings of its dependencies.
        warnings.simplefilter("ignore")
        import celltypist

        problem = problem.most_variable(_GENES)
        celltypist.logger.set_level(logging.ERROR)
        return celltypist.train(
            problem.train,
            labels=np.array(problem.classes)[problem.labels],
            genes=np.array(problem.ensembl_ids),
            check_expression=False,  # totals of rows with missing genes are estimates
            use_SGD=True,
            alpha=_ALPHA,
            max_iter=_EPOCHS,
            tol=None,  # all epochs, without a convergence check
            n_jobs=thread_count(),
            random_state=seed,
        )


def celltypist_scores(problem: Problem, *, seed: int = 0) -> np.ndarray:
    """Return the probability of each class by its classifier, shape (n_cells, n_classes)."""
    model = train_celltypist(problem, seed=seed)
    problem = problem.most_variable(_GENES)
    cells = anndata.AnnData(
        problem.cells,
        obs=pd.DataFrame(index=[str(row) for row in range(len(problem.cells))]),
        var=pd.DataFrame(index=list(problem.ensembl_ids)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import celltypist

        found = celltypist.annotate(cells, model=model)
    return found.probability_matrix[list(problem.classes)].to_numpy(dtype=np.float32)


def celltypist_labels(values: np.ndarray, labels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Train the package's own model with its default settings on a few cells, and predict others.

    Parameters
    ----------
    values: log1p of counts per 10,000, shape (n_train, n_genes)
    labels: labels of these cells, int, shape (n_train,)
    cells: values of the cells to predict, shape (n_cells, n_genes)

    Returns
    -------
    int, shape (n_cells,)
    """
    genes = [f"gene{number}" for number in range(values.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import celltypist

        celltypist.logger.set_level(logging.ERROR)
        model = celltypist.train(
            values,
            labels=labels.astype(str),
            genes=np.array(genes),
            check_expression=False,
            use_SGD=True,
            n_jobs=thread_count(),
            random_state=0,
        )
        adata = anndata.AnnData(
            cells,
            obs=pd.DataFrame(index=[str(row) for row in range(len(cells))]),
            var=pd.DataFrame(index=genes),
        )
        found = celltypist.annotate(adata, model=model)
    return found.predicted_labels["predicted_labels"].astype(int).to_numpy()


METHOD = BaselineMethod(
    name="celltypist",
    score=celltypist_scores,
    combine="sum",
    packages=("numpy", "celltypist", "scikit-learn"),
)
