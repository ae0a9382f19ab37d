"""Regress cells on labels of an ontology, where a label has the probability of all below it too."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from langcell.runtime.threads import one_blas_thread
from ontology.graph import Ontology
from zeroshot.confidence.term_tree import TermTree
from zeroshot.labels.candidates import own_candidates

_ANCESTORS = 0.5  # what the ancestors of a label weigh together; itself it weighs 1
_LEAST_MASS = 1e-12
_STEPS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Subtrees:
    """What cells of each label teach.

    Attributes
    ----------
    below: 1 where a label is a term or lies below it, shape (n_labels, n_terms)
    weights: of the terms for cells of a label, rows sum to 1, shape (n_labels, n_terms)
    own: term that each label is, int, shape (n_labels,)
    """

    below: np.ndarray
    weights: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, keys: tuple[str, ...]) -> "Subtrees":
        """Gather labels and their ancestors; those that are above the same labels are one.

        Examples
        --------
        >>> found = Subtrees.of(("CL:0000236", "CL:0000084", "CL:0000624"))  # B, T, CD4-positive T
        >>> found.below.tolist()
        [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]]
        >>> found.weights.round(3).tolist()[2]
        [0.667, 0.333, 0.0, 0.0]
        """
        ontology = Ontology.bundled()
        tree = TermTree.of(own_candidates(keys, ontology), ontology)
        above = tree.lineages.toarray()
        below, place = np.unique(above, axis=1, return_inverse=True)  # (n_labels, n_terms)
        tells_apart = below.sum(axis=0) < len(keys)
        n_above = (below[:, tells_apart].sum(axis=1, keepdims=True) - 1).clip(min=1)
        weights = np.where(tells_apart, below * _ANCESTORS / n_above, 0)
        own = place.ravel()[tree.candidate_terms]
        weights[np.arange(len(keys)), own] = 1
        weights /= weights.sum(axis=1, keepdims=True)
        return cls(below=below, weights=weights, own=own)

    def at_or_below(self, labels: np.ndarray) -> np.ndarray:
        """Return rows of some labels and of those below them, ascending."""
        return np.flatnonzero(self.below[:, self.own[labels]].any(axis=1))

    def part(self, labels: np.ndarray) -> "Subtrees":
        """Return what is left where some of the labels alone are there."""
        return Subtrees(
            below=self.below[labels], weights=self.weights[labels], own=self.own[labels]
        )


def fit_subtree_regression(
    inputs: np.ndarray | sparse.csr_matrix, labels: np.ndarray, subtrees: Subtrees, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (n_labels, n_inputs) and intercepts (n_labels,) of a softmax over labels.

    Least is half the squared weights and c times, summed over cells, the weighted mean over the
    terms of a cell's label of minus the logarithm of the probability of all labels below the term
    (hierarchical cross-entropy; Deng et al. 2014, HEX graphs, without exclusion edges).

    Parameters
    ----------
    inputs: shape (n_cells, n_inputs)
    labels: row of each cell's label among the subtrees', int, shape (n_cells,)
    subtrees: of the labels
    c: inverse of the penalty, as of scikit-learn's LogisticRegression
    """
    targets = subtrees.weights[labels]  # (n_cells, n_terms)
    if inputs.shape[0] < inputs.shape[1]:
        # The weights are sums of cells: as many numbers a label are enough.
        axes = _principal_axes(inputs)
        weights, intercepts = _minimise(inputs @ axes, targets, subtrees.below, c)
        return weights @ axes.T, intercepts
    return _minimise(inputs, targets, subtrees.below, c)


def _principal_axes(inputs: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """Return orthonormal axes of the space that the cells span, shape (n_inputs, n_axes)."""
    gram = inputs @ inputs.T
    with one_blas_thread():
        values, vectors = np.linalg.eigh(gram.toarray() if sparse.issparse(gram) else gram)
    kept = values > values.max() * len(values) * np.finfo(np.float64).eps
    return (inputs.T @ vectors[:, kept]) / np.sqrt(values[kept])


def _minimise(
    inputs: np.ndarray | sparse.csr_matrix, targets: np.ndarray, below: np.ndarray, c: float
) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(below), inputs.shape[1] + 1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = np.split(flat.reshape(shape), [-1], axis=1)
        value, slope = subtree_loss(inputs @ weights.T + intercepts[:, 0], targets, below)
        gradient = np.column_stack([(inputs.T @ slope).T, slope.sum(axis=0)])
        gradient *= c
        gradient[:, :-1] += weights
        return c * value + 0.5 * np.sum(weights**2), gradient.ravel()

    with one_blas_thread():
        found = minimize(
            loss,
            np.zeros(np.prod(shape)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _STEPS, "maxfun": 2 * _STEPS},
        )
    weights, intercepts = np.split(found.x.reshape(shape), [-1], axis=1)
    return weights, intercepts[:, 0]


def subtree_loss(
    logits: np.ndarray, targets: np.ndarray, below: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the summed loss of cells, and its derivative by the logits (n_cells, n_labels).

    As `langcell.nn.losses.subtree_loss`, in numpy: a head on a bag of genes needs no torch.
    """
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    mass = (shares @ below).clip(min=_LEAST_MASS)  # (n_cells, n_terms)
    slope = shares * (targets.sum(axis=1, keepdims=True) - (targets / mass) @ below.T)
    return float(-np.sum(targets * np.log(mass))), slope
