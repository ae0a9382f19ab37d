"""Softmax regression on ontology labels, where a term's probability includes its descendants."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from langcell.runtime.threads import one_blas_thread
from ontology.graph import Ontology
from zeroshot.confidence.term_tree import TermTree
from zeroshot.labels.candidates import own_candidates

_ANCESTOR_WEIGHT = 0.5  # of all ancestors of a label together; the label itself has weight 1
_MIN_PROBABILITY = 1e-12
_STEPS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Subtrees:
    """The labels and their ancestors, with the loss weight of each term.

    Attributes
    ----------
    below: 1 if a label is the term or a descendant of it, shape (n_labels, n_terms)
    weights: loss weight of each term for cells of a label, rows sum to 1, shape (n_labels, n_terms)
    own: column of each label's own term, int, shape (n_labels,)
    """

    below: np.ndarray
    weights: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, keys: tuple[str, ...]) -> "Subtrees":
        """Build from label keys; ancestors of the same set of labels are merged into one term.

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
        is_ancestor = tree.lineages.toarray()
        below, column = np.unique(is_ancestor, axis=1, return_inverse=True)  # (n_labels, n_terms)
        is_informative = below.sum(axis=0) < len(keys)
        n_ancestors = (below[:, is_informative].sum(axis=1, keepdims=True) - 1).clip(min=1)
        weights = np.where(is_informative, below * _ANCESTOR_WEIGHT / n_ancestors, 0)
        own = column.ravel()[tree.candidate_terms]
        weights[np.arange(len(keys)), own] = 1
        weights /= weights.sum(axis=1, keepdims=True)
        return cls(below=below, weights=weights, own=own)

    def at_or_below(self, labels: np.ndarray) -> np.ndarray:
        """Return rows of some labels and of their descendants, ascending."""
        return np.flatnonzero(self.below[:, self.own[labels]].any(axis=1))

    def part(self, labels: np.ndarray) -> "Subtrees":
        """Return the rows of some of the labels."""
        return Subtrees(
            below=self.below[labels], weights=self.weights[labels], own=self.own[labels]
        )


def fit_subtree_regression(
    inputs: np.ndarray | sparse.csr_matrix, labels: np.ndarray, subtrees: Subtrees, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (n_labels, n_inputs) and intercepts (n_labels,) of a softmax over labels.

    Minimises |weights|^2 / 2 + c * (sum over cells of the weighted mean over terms of -log p(term)),
    where p(term) is the summed probability of the labels that are the term or its descendants
    (hierarchical cross-entropy; Deng et al. 2014, HEX graphs, without exclusion edges).

    Parameters
    ----------
    inputs: shape (n_cells, n_inputs)
    labels: row in `subtrees` of each cell's label, int, shape (n_cells,)
    subtrees: labels and their ancestors
    c: inverse penalty, as in scikit-learn's LogisticRegression
    """
    targets = subtrees.weights[labels]  # (n_cells, n_terms)
    if inputs.shape[0] < inputs.shape[1]:
        # The optimal weights are linear combinations of cells: fit in the span of the cells.
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
        value, by_logit = subtree_loss(inputs @ weights.T + intercepts[:, 0], targets, below)
        gradient = np.column_stack([(inputs.T @ by_logit).T, by_logit.sum(axis=0)])
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
    """Return the loss summed over cells, and its gradient by the logits (n_cells, n_labels).

    The NumPy version of `langcell.nn.losses.subtree_loss`, so that heads can be fitted without torch.
    """
    labels = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels /= labels.sum(axis=1, keepdims=True)  # probabilities, (n_cells, n_labels)
    terms = (labels @ below).clip(min=_MIN_PROBABILITY)  # (n_cells, n_terms)
    gradient = labels * (targets.sum(axis=1, keepdims=True) - (targets / terms) @ below.T)
    return float(-np.sum(targets * np.log(terms))), gradient
