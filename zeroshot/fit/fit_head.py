"""Fit a head to labelled cells: logistic regressions, or prototypes."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

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
# From inputs and labels of cells, and an inverse penalty, to weights and intercepts of labels.
Regress = Callable[[Inputs, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
# Chosen on the validation studies (`benchmarks.accuracy.fewshot`): inverse penalties of the regressions on
# features and on genes, and what a prototype's text counts for, in cells.
_FEATURE_C, _GENE_C = 30.0, 3.0
_TEXT_SHOTS = 1.0
_PROTOTYPE_SCALE = 20.0
_MOST_FOLDS = 5
_STEPS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledCells:
    """Labelled cells, and what a model says of them.

    Attributes
    ----------
    labels: row of each cell's label in `keys`, int, shape (n_cells,)
    keys: of all labels, with and without cells
    label_features: of the labels' texts, unit norm, shape (n_labels, embedding_dim)
    texts: log-probabilities of the labels by their texts, shape (n_cells, n_labels)
    features: of the cells, shape (n_cells, embedding_dim)
    tokens: ranked genes of the cells
    groups: donor or study of each cell, which folds do not divide; None for none
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
        """Labelled cells of each label, shape (n_labels,)."""
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


def choose_kind(shots: LabelledCells) -> Kind:
    """Choose how to fit: by regressions, which need two labels with cells, or by prototypes."""
    return "linear" if np.count_nonzero(shots.n_shots) > 1 else "prototype"


def fit_head(shots: LabelledCells, kind: Kind, *, model: str, model_sha256: str) -> FewShotHead:
    """Fit a head, without a calibration.

    Parameters
    ----------
    shots: at least one cell
    kind: "linear" adds up two logistic regressions, on features and on `rank_weights`, and what the
        texts say, which weighs 1 / sqrt(cells of a typical label). "prototype" compares with the
        mean of a label's cells and of its text, which counts as one more cell.
    model, model_sha256: what the features are from

    Raises
    ------
    ValueError
        If a linear or hierarchical head has cells of one label alone.
    """
    fit = {
        "linear": _fit_linear,
        "hierarchical": _fit_hierarchical,
        "prototype": _fit_prototypes,
    }[kind]
    return replace(
        fit(shots),
        keys=shots.keys,
        n_shots=shots.n_shots,
        novelty=Novelty.of(shots.features, shots.labels, shots.label_features),
        model=model,
        model_sha256=model_sha256,
    )


def empty_head(shots: LabelledCells, kind: str) -> FewShotHead:
    """Return a head that knows no more than the labels."""
    n_labels, width = shots.label_features.shape
    return FewShotHead(
        kind=kind,
        keys=shots.keys,
        n_shots=shots.n_shots,
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


def _fit_prototypes(shots: LabelledCells) -> FewShotHead:
    sums = _TEXT_SHOTS * shots.label_features.astype(np.float64)
    np.add.at(sums, shots.labels, shots.features)
    means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    weights = (_PROTOTYPE_SCALE * means).astype(np.float32)
    return replace(empty_head(shots, "prototype"), feature_weights=weights)


def _fit_linear(shots: LabelledCells) -> FewShotHead:
    return _add_regressions(shots, "linear", np.flatnonzero(shots.n_shots), _regress)


def _fit_hierarchical(shots: LabelledCells) -> FewShotHead:
    subtrees = Subtrees.of(shots.keys)
    learnt = subtrees.at_or_below(np.flatnonzero(shots.n_shots))
    place = np.zeros(len(shots.keys), dtype=np.int64)
    place[learnt] = np.arange(len(learnt))

    def regress(inputs: Inputs, labels: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
        return fit_subtree_regression(inputs, place[labels], subtrees.part(learnt), c)

    return _add_regressions(shots, "hierarchical", learnt, regress)


def _add_regressions(
    shots: LabelledCells, kind: Kind, learnt: np.ndarray, regress: Regress
) -> FewShotHead:
    """Add up regressions on features and on genes, of the labels that they learn, and the texts."""
    n_shots = shots.n_shots
    if np.count_nonzero(n_shots) < 2:
        raise ValueError(
            f"a {kind} head tells labels apart, and there are cells of one alone; label some of "
            "another, or take --head prototype"
        )
    genes = np.unique(shots.tokens.tokens).astype(np.int32)
    by_features, first = regress(shots.features.astype(np.float64), shots.labels, _FEATURE_C)
    by_genes, second = regress(rank_weights(shots.tokens, genes), shots.labels, _GENE_C)
    empty = empty_head(shots, kind)
    feature_weights, gene_weights = empty.feature_weights, np.zeros((len(n_shots), len(genes)))
    intercepts = np.zeros(len(n_shots))
    # Other labels stand where those learnt are on average: neither for nor against.
    feature_weights[learnt] = by_features - by_features.mean(axis=0)
    gene_weights[learnt] = by_genes - by_genes.mean(axis=0)
    intercepts[learnt] = first + second - (first + second).mean()
    return replace(
        empty,
        text_weight=float(1 / np.sqrt(np.median(n_shots[n_shots > 0]))),
        feature_weights=feature_weights,
        gene_tokens=genes,
        gene_weights=gene_weights.astype(np.float32),
        intercepts=intercepts.astype(np.float32),
    )


def _regress(inputs: Inputs, labels: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercepts of the labels that have cells, in their order."""
    with one_blas_thread(), warnings.catch_warnings():
        # One cell a label is what few shots are, and no regression on numbers by mistake.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        found = LogisticRegression(C=c, max_iter=_STEPS).fit(inputs, labels)
    if len(found.classes_) > 2:
        return found.coef_, found.intercept_
    # Of two classes the library keeps the difference.
    halves = np.array([[-0.5], [0.5]])
    return halves * found.coef_, halves[:, 0] * found.intercept_


def folds(
    shots: LabelledCells, *, most: int = _MOST_FOLDS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of cells to learn from and rows held out, each cell held out once.

    Folds keep groups together where there are two or more, else they share out each label; where a
    label has one cell there are none.
    """
    counts = shots.n_shots[shots.n_shots > 0]
    n_groups = 0 if shots.groups is None else len(np.unique(shots.groups))
    splitter: BaseCrossValidator
    if n_groups > 1 and is_constant_within(shots.labels, np.asarray(shots.groups)):
        # A fold must not take all groups of a label.
        n_folds = min(most, n_groups, int(counts.min()))
        splitter = StratifiedGroupKFold(n_folds) if n_folds > 1 else GroupKFold(2)
    elif n_groups > 1:
        splitter = GroupKFold(min(most, n_groups))
    elif counts.min() > 1:
        splitter = StratifiedKFold(min(most, int(counts.min())), shuffle=True, random_state=0)
    else:
        return
    groups = shots.groups if n_groups > 1 else None
    yield from splitter.split(shots.features, shots.labels, groups)


def held_out(shots: LabelledCells, kind: Kind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of cells, and their log-probabilities by a head that did not see them."""
    for seen, unseen in folds(shots):
        rest, left = shots.part(seen), shots.part(unseen)
        fold_kind: Kind = kind if np.count_nonzero(rest.n_shots) > 1 else "prototype"
        head = fit_head(rest, fold_kind, model="", model_sha256="")
        yield unseen, head.log_probabilities(left.texts, left.features, left.tokens)
