"""Fit a donor head: logistic regression on the mean cell of each donor."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, StratifiedKFold

from langcell.model.embed_cells import CellEmbeddings
from langcell.runtime.threads import one_blas_thread
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.confidence.novelty import Novelty
from zeroshot.heads.few_shot_head import DONOR, FewShotHead, log_softmax, rank_weights

_MAX_LEAVE_ONE_OUT = 20  # donors; with more, ten folds replace leave-one-out
_C = 10.0  # inverse penalty; not tuned
_STEPS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class DonorMeans:
    """The mean cell of each donor.

    Attributes
    ----------
    names: donor names, shape (n_donors,)
    features: mean of the cell features, float64, shape (n_donors, embedding_dim)
    gene_tokens: genes that any cell expresses, ascending, int32, shape (n_genes,)
    genes: mean of the cells' `rank_weights`, float64, shape (n_donors, n_genes)
    """

    names: np.ndarray
    features: np.ndarray
    gene_tokens: np.ndarray
    genes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def part(self, rows: np.ndarray) -> "DonorMeans":
        """Return some of the donors."""
        return replace(
            self,
            names=self.names[rows],
            features=self.features[rows],
            genes=self.genes[rows],
        )


def donor_means(
    blocks: Iterable[CellEmbeddings], donors: np.ndarray, types: np.ndarray | None = None
) -> DonorMeans:
    """Average the cells of each donor; memory grows with the donors, not with the cells.

    Parameters
    ----------
    blocks: embedded cells with tokens; `start` is a position in `donors`
    donors: donor of each cell, shape (n_cells,)
    types: cell type of each cell; each type of a donor then has the same weight. Without it each
        cell has the same weight
    """
    names, weights = mean_weights(donors, types)
    by_cell = weights.tocsc()
    features: np.ndarray | float = 0.0
    genes = sparse.csr_matrix((len(names), 0))
    for cells in blocks:
        assert cells.tokens is not None, "cells of a file have tokens"
        part = by_cell[:, cells.start : cells.start + len(cells.features)]
        features = features + part @ cells.features.astype(np.float64)
        n_tokens = max(genes.shape[1], int(cells.tokens.tokens.max(initial=0)) + 1)
        genes.resize(len(names), n_tokens)
        genes = genes + part @ rank_weights(cells.tokens, np.arange(n_tokens))
    tokens = np.unique(genes.indices)
    return DonorMeans(
        names=names,
        features=np.asarray(features),
        gene_tokens=tokens.astype(np.int32),
        genes=genes[:, tokens].toarray(),
    )


def mean_weights(
    donors: np.ndarray, types: np.ndarray | None
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Return donor names and the weight of each cell, shape (n_donors, n_cells); rows sum to 1.

    >>> mean_weights(np.array(["a", "a", "a"]), np.array(["T", "T", "B"]))[1].toarray()
    array([[0.25, 0.25, 0.5 ]])
    """
    names, rows = np.unique(donors.astype(str), return_inverse=True)
    table = pd.DataFrame({"donor": rows, "type": 0 if types is None else types.astype(str)})
    n_cells = table.groupby(["donor", "type"])["type"].transform("size").to_numpy()
    n_types = table.groupby("donor")["type"].transform("nunique").to_numpy()
    shape = (len(names), len(table))
    places = (rows, np.arange(len(table)))
    return names, sparse.csr_matrix((1 / (n_cells * n_types), places), shape=shape)


def fit_donor_head(
    donors: DonorMeans, labels: np.ndarray, keys: tuple[str, ...], *, by_types: bool = False
) -> FewShotHead:
    """Fit a head to donors: the sum of logistic regressions on features and on genes.

    Inputs are centred and divided by their root mean square distance from the mean, so that one
    penalty suits both. The weights can be applied to single cells: the mean log-odds of a donor's
    cells are the log-odds of its mean cell.

    Parameters
    ----------
    donors: at least two donors
    labels: index in `keys` of each donor's label, each label at least once, shape (n_donors,)
    keys: label keys
    by_types: whether each cell type of a donor has the same weight; stored in the head
    """
    by_features, first = _regress(donors.features, labels)
    by_genes, second = _regress(donors.genes, labels)
    return FewShotHead(
        kind="linear",
        keys=keys,
        n_shots=np.bincount(labels, minlength=len(keys)),
        text_weight=0.0,
        feature_weights=by_features.astype(np.float32),
        gene_tokens=donors.gene_tokens,
        gene_weights=by_genes.astype(np.float32),
        intercepts=(first + second).astype(np.float32),
        model="",
        model_sha256="",
        calibration=UNCALIBRATED,
        novelty=Novelty(prototypes=np.zeros_like(by_features, dtype=np.float32)),
        target=DONOR,
        by_types=by_types,
    )


def _regress(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercepts of the labels, for inputs that are not standardised."""
    mean = inputs.mean(axis=0)
    spread = np.sqrt(((inputs - mean) ** 2).sum(axis=1).mean()) or 1.0
    with one_blas_thread():
        # Balanced: with few donors, leaving one out makes its label the rarer one.
        found = LogisticRegression(C=_C, class_weight="balanced", max_iter=_STEPS)
        found.fit((inputs - mean) / spread, labels)
    weights, intercepts = found.coef_ / spread, found.intercept_
    if len(found.classes_) == 2:  # scikit-learn has one row of weights for two classes
        weights, intercepts = np.vstack([-weights, weights]) / 2, np.r_[-intercepts, intercepts] / 2
    return weights, intercepts - weights @ mean


def donors_held_out(
    donors: DonorMeans, labels: np.ndarray, keys: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of held-out donors and their log-probabilities, fold by fold.

    Parameters as in `fit_donor_head`; each label needs two donors.
    """
    folds = (
        LeaveOneOut()
        if len(donors) <= _MAX_LEAVE_ONE_OUT
        else StratifiedKFold(min(10, int(np.bincount(labels).min())), shuffle=True, random_state=0)
    )
    for seen, unseen in folds.split(donors.features, labels):
        head = fit_donor_head(donors.part(seen), labels[seen], keys)
        logits = donors.features[unseen] @ head.feature_weights.T + head.intercepts
        yield unseen, log_softmax(logits + donors.genes[unseen] @ head.gene_weights.T)
