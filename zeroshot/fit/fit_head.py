"""Fit a few-shot head to labelled cells: logistic regressions or prototypes."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

from langcell.runtime.parameter_names import option
from langcell.runtime.threads import one_blas_thread
from langcell.tokens.tokenizer import TokenBlock
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.confidence.novelty import Novelty
from zeroshot.fit.donor_split import is_constant_within
from zeroshot.fit.subtree_regression import Subtrees, fit_subtree_regression
from zeroshot.heads.few_shot_head import FewShotHead, rank_weights

if TYPE_CHECKING:
    from sklearn.model_selection import BaseCrossValidator

Kind = Literal["linear", "hierarchical", "prototype"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Inputs: TypeAlias = np.ndarray | sparse.csr_matrix
# From inputs and labels of cells, and the inverse penalty C, to weights and intercepts of labels.
Regress = Callable[[Inputs, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
# Chosen on the validation studies (`benchmarks.accuracy.fewshot`): inverse penalties of the regressions on
# features and on genes, and the weight of a label's text in its prototype, in cells.
_FEATURE_C, _GENE_C = 30.0, 3.0
_TEXT_SHOTS = 1.0
_PROTOTYPE_SCALE = 20.0
_MAX_FOLDS = 5
_STEPS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledCells:
    """Labelled cells with their features and zero-shot predictions.

    Attributes
    ----------
    labels: index in `keys` of each cell's label, int, shape (n_cells,)
    keys: keys of all labels, with and without cells
    label_features: text features of the labels, unit norm, shape (n_labels, embedding_dim)
    texts: zero-shot log-probabilities of the labels, shape (n_cells, n_labels)
    features: cell features, shape (n_cells, embedding_dim)
    tokens: ranked genes of the cells
    groups: donor or study of each cell, kept within one fold; None for none
    """

    labels: np.ndarray
    keys: tuple[str, ...]
    label_features: np.ndarray
    texts: np.ndarray
    features: np.ndarray
    tokens: TokenBlock
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_shots(self) -> np.ndarray:
        """Number of cells of each label, shape (n_labels,)."""
        return np.bincount(self.labels, minlength=len(self.keys))

    def part(self, rows: np.ndarray) -> "LabelledCells":
        """Return some of the cells."""
        return replace(
            self,
            labels=self.labels[rows],
            texts=self.texts[rows],
            features=self.features[rows],
            tokens=TokenBlock.of([self.tokens.cell(row) for row in rows]),
            groups=None if self.groups is None else self.groups[rows],
        )


def choose_kind(labelled: LabelledCells) -> Kind:
    """Return "linear" if at least two labels have cells, else "prototype"."""
    return "linear" if np.count_nonzero(labelled.n_shots) > 1 else "prototype"


def fit_head(labelled: LabelledCells, kind: Kind, *, model: str, model_sha256: str) -> FewShotHead:
    """Fit a head, without a calibration.

    Parameters
    ----------
    labelled: at least one cell
    kind: "linear" is the sum of two logistic regressions, on features and on `rank_weights`, and of
        the zero-shot log-probabilities with weight 1 / sqrt(median cells per label). "hierarchical"
        is the same with `fit_subtree_regression`. "prototype" compares a cell with the mean of a
        label's cells and its text, which counts as one cell
    model, model_sha256: name and checksum of the model that embedded the cells

    Raises
    ------
    ValueError
        If a linear or hierarchical head has cells of only one label.
    """
    fit = {
        "linear": _fit_linear,
        "hierarchical": _fit_hierarchical,
        "prototype": _fit_prototypes,
    }[kind]
    return replace(
        fit(labelled),
        keys=labelled.keys,
        n_shots=labelled.n_shots,
        novelty=Novelty.of(labelled.features, labelled.labels, labelled.label_features),
        model=model,
        model_sha256=model_sha256,
    )


def empty_head(labelled: LabelledCells, kind: str) -> FewShotHead:
    """Return a head with all weights zero."""
    n_labels, width = labelled.label_features.shape
    return FewShotHead(
        kind=kind,
        keys=labelled.keys,
        n_shots=labelled.n_shots,
        text_weight=0.0,
        feature_weights=np.zeros((n_labels, width), np.float32),
        gene_tokens=np.empty(0, np.int32),
        gene_weights=np.zeros((n_labels, 0), np.float32),
        intercepts=np.zeros(n_labels, np.float32),
        model="",
        model_sha256="",
        calibration=UNCALIBRATED,
        novelty=Novelty(prototypes=np.zeros((n_labels, width), np.float32)),
    )


def _fit_prototypes(labelled: LabelledCells) -> FewShotHead:
    sums = _TEXT_SHOTS * labelled.label_features.astype(np.float64)
    np.add.at(sums, labelled.labels, labelled.features)
    means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    weights = (_PROTOTYPE_SCALE * means).astype(np.float32)
    return replace(empty_head(labelled, "prototype"), feature_weights=weights)


def _fit_linear(labelled: LabelledCells) -> FewShotHead:
    return _add_regressions(labelled, "linear", np.flatnonzero(labelled.n_shots), _regress)


def _fit_hierarchical(labelled: LabelledCells) -> FewShotHead:
    subtrees = Subtrees.of(labelled.keys)
    fitted = subtrees.at_or_below(np.flatnonzero(labelled.n_shots))
    position = np.zeros(len(labelled.keys), dtype=np.int64)
    position[fitted] = np.arange(len(fitted))

    def regress(inputs: Inputs, labels: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
        return fit_subtree_regression(inputs, position[labels], subtrees.part(fitted), c)

    return _add_regressions(labelled, "hierarchical", fitted, regress)


def _add_regressions(
    labelled: LabelledCells, kind: Kind, fitted: np.ndarray, regress: Regress
) -> FewShotHead:
    """Sum regressions on features and on genes for the fitted labels, and zero-shot scores."""
    n_shots = labelled.n_shots
    if np.count_nonzero(n_shots) < 2:
        raise ValueError(
            f"a {kind} head needs cells of at least two labels, got one; label cells of another, or "
            f"pass {option('kind', 'prototype', flag='--head')}"
        )
    genes = np.unique(labelled.tokens.tokens).astype(np.int32)
    by_features, first = regress(labelled.features.astype(np.float64), labelled.labels, _FEATURE_C)
    by_genes, second = regress(rank_weights(labelled.tokens, genes), labelled.labels, _GENE_C)
    empty = empty_head(labelled, kind)
    feature_weights, gene_weights = empty.feature_weights, np.zeros((len(n_shots), len(genes)))
    intercepts = np.zeros(len(n_shots))
    # Centre the fitted labels, so that labels without cells (all zero) get their average score.
    feature_weights[fitted] = by_features - by_features.mean(axis=0)
    gene_weights[fitted] = by_genes - by_genes.mean(axis=0)
    intercepts[fitted] = first + second - (first + second).mean()
    return replace(
        empty,
        text_weight=float(1 / np.sqrt(np.median(n_shots[n_shots > 0]))),
        feature_weights=feature_weights,
        gene_tokens=genes,
        gene_weights=gene_weights.astype(np.float32),
        intercepts=intercepts.astype(np.float32),
    )


def _regress(inputs: Inputs, labels: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercepts of the labels that have cells, in label order."""
    with one_blas_thread(), warnings.catch_warnings():
        # scikit-learn suspects a regression target if most labels have one cell.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        found = LogisticRegression(C=c, max_iter=_STEPS).fit(inputs, labels)
    if len(found.classes_) > 2:
        return found.coef_, found.intercept_
    # For two classes scikit-learn returns one row of weights.
    halves = np.array([[-0.5], [0.5]])
    return halves * found.coef_, halves[:, 0] * found.intercept_


def folds(
    labelled: LabelledCells, *, max_folds: int = _MAX_FOLDS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of training cells and of held-out cells; each cell is held out once.

    Folds keep groups together if there are two or more, else they are stratified by label. There
    are none if a label has only one cell.
    """
    counts = labelled.n_shots[labelled.n_shots > 0]
    n_groups = 0 if labelled.groups is None else len(np.unique(labelled.groups))
    splitter: BaseCrossValidator
    if n_groups > 1 and is_constant_within(labelled.labels, np.asarray(labelled.groups)):
        # A fold must not hold out all groups of a label.
        n_folds = min(max_folds, n_groups, int(counts.min()))
        splitter = StratifiedGroupKFold(n_folds) if n_folds > 1 else GroupKFold(2)
    elif n_groups > 1:
        splitter = GroupKFold(min(max_folds, n_groups))
    elif counts.min() > 1:
        splitter = StratifiedKFold(min(max_folds, int(counts.min())), shuffle=True, random_state=0)
    else:
        return
    groups = labelled.groups if n_groups > 1 else None
    yield from splitter.split(labelled.features, labelled.labels, groups)


def held_out(labelled: LabelledCells, kind: Kind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of held-out cells and their log-probabilities, fold by fold."""
    for seen, unseen in folds(labelled):
        rest, left = labelled.part(seen), labelled.part(unseen)
        fold_kind: Kind = kind if np.count_nonzero(rest.n_shots) > 1 else "prototype"
        head = fit_head(rest, fold_kind, model="", model_sha256="")
        yield unseen, head.log_probabilities(left.texts, left.features, left.tokens)
