"""Baseline: CellTypist's own training and prediction (extra `celltypist`).

Domínguez Conde et al. 2022, Science 376:eabl5197: one logistic regression a type on scaled log
values, here by stochastic gradient descent, as the package offers for many cells: its other trainer
asks scikit-learn for an argument that releases from 1.8 on do not have.
"""

import logging
import warnings

import anndata
import numpy as np
import pandas as pd

from benchmarks.baselines import Method
from benchmarks.training_cells import Problem
from langcell.threads import thread_count

_GENES = 2_000
_EPOCHS = 4
_ALPHA = 1e-2  # own macro-F1 on three studies 0.47, at 1e-3 0.16, at 3e-2 0.42


def celltypist_scores(problem: Problem, *, seed: int = 0) -> np.ndarray:
    """Return the probability that each classifier gives its class, shape (n_cells, n_classes)."""
    problem = problem.most_variable(_GENES)
    with warnings.catch_warnings():
        # Importing the package warns of what it imports itself.
        warnings.simplefilter("ignore")
        import celltypist

        celltypist.logger.set_level(logging.ERROR)
        model = celltypist.train(
            problem.train,
            labels=np.array(problem.classes)[problem.labels],
            genes=np.array(problem.ensembl_ids),
            check_expression=False,  # of rows that lack a gene the total is a guess
            use_SGD=True,
            alpha=_ALPHA,
            max_iter=_EPOCHS,
            tol=None,  # all epochs, whether it converged or not
            n_jobs=thread_count(),
            random_state=seed,
        )
        cells = anndata.AnnData(
            problem.cells,
            obs=pd.DataFrame(index=[str(row) for row in range(len(problem.cells))]),
            var=pd.DataFrame(index=list(problem.ensembl_ids)),
        )
        found = celltypist.annotate(cells, model=model)
    return found.probability_matrix[list(problem.classes)].to_numpy(dtype=np.float32)


METHOD = Method(
    name="celltypist",
    score=celltypist_scores,
    combine="sum",
    packages=("numpy", "celltypist", "scikit-learn"),
)
