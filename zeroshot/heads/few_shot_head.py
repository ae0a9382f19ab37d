"""A few labelled cells as a head on the model: it weighs features, ranked genes and label texts."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from langcell.checkpoints.weight_changes import WeightChanges, digest_of
from langcell.tokens.tokenizer import TokenBlock
from ontology.graph import Ontology
from zeroshot.confidence.calibration import Calibration
from zeroshot.confidence.novelty import Novelty

if TYPE_CHECKING:
    from langcell.model.embedder import Embedder
    from zeroshot.labels.candidates import CandidateSet

# What labels may say: what type a cell is, what state it is in, or what is true of a donor.
TYPE, STATE, DONOR = "type", "state", "donor"
TARGETS = (TYPE, STATE, DONOR)
HELD_OUT = ("cells held out from the head",)  # what a calibration of a head was fitted on
_HALF_RANK = 16  # rank at which a gene weighs 1 / sqrt(2)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FewShotHead:
    """A linear classifier of cells beside what the texts of labels say.

    The log-odds of label i for a cell are

        text_weight * log p(i) + feature_weights[i] @ f + gene_weights[i] @ g + intercepts[i]

    with p the probabilities among the labels that the model gives without labelled cells, f the
    features of the cell and g its `rank_weights`. A head that was tuned with the model reads cells
    by the model as it `changes` it.

    Attributes
    ----------
    kind: how it was fitted, one of `zeroshot.fit.few_shot.KINDS`
    keys: of the labels: Cell Ontology ids, or "text: " and words
    n_shots: labelled cells of each, 0 for one that its text alone speaks for, shape (n_labels,)
    text_weight: of what the texts say
    feature_weights: float32, shape (n_labels, embedding_dim)
    gene_tokens: of the genes that count, ascending, int32, shape (n_genes,)
    gene_weights: float32, shape (n_labels, n_genes)
    intercepts: float32, shape (n_labels,)
    model, model_sha256: whose features and tokens these are
    calibration: how its probabilities become confidences
    novelty: how unlike its labelled cells a cell is
    target: what its labels say, one of `TARGETS`; of a donor, cells count by the mean of their log-odds
    by_types: the mean over the cell types of a donor of that of their cells, not over cells
    changes: of the model's weights
    matches: the matching head of the model reads every label with the cell, and its log-probability
        of a match is added to log p, among the labels
    """

    kind: str
    keys: tuple[str, ...]
    n_shots: np.ndarray
    text_weight: float
    feature_weights: np.ndarray
    gene_tokens: np.ndarray
    gene_weights: np.ndarray
    intercepts: np.ndarray
    model: str
    model_sha256: str
    calibration: Calibration
    novelty: Novelty
    target: str = TYPE
    by_types: bool = False
    changes: WeightChanges = field(default_factory=dict)
    matches: bool = False

    def __repr__(self) -> str:
        keys = ", ".join(self.keys[:5]) + (", ..." if len(self.keys) > 5 else "")
        return f"FewShotHead({self.kind!r}, {len(self.keys)} labels: {keys}; model {self.model!r})"

    @property
    def is_calibrated(self) -> bool:
        """Tell whether the calibration was learnt of the head, not of the model without it."""
        return self.calibration.fitted_on == HELD_OUT

    @property
    def identifier(self) -> str:
        """Short hash of what it does, for notes."""
        digest = hashlib.sha256("\n".join((*self.keys, self.model_sha256)).encode())
        arrays = (self.feature_weights, self.gene_tokens, self.gene_weights, self.intercepts)
        for each in (*arrays, self.novelty.prototypes):
            digest.update(np.ascontiguousarray(each).tobytes())
        digest.update(np.float64(self.text_weight).tobytes())
        digest.update(digest_of(self.changes).encode())
        return digest.hexdigest()[:12]

    def check_fits(self, model: "Embedder", candidates: "CandidateSet") -> None:
        """Refuse a model or candidates that the head was not fitted with.

        Raises
        ------
        ValueError
            That names what it was fitted with, and what is here.
        """
        if model.sha256 != self.model_sha256:
            raise ValueError(
                f"the head was fitted on model {self.model} ({self.model_sha256[:12]}), and this one "
                f"has other weights ({model.sha256[:12]}): name that one with --model, or fit again"
            )
        if candidates.keys != self.keys:
            raise ValueError(
                f"the head knows {len(self.keys)} labels, and other candidates were given: leave out "
                "--labels; give labels without cells to langcell fewshot fit --labels"
            )

    def adapt(self, model: "Embedder") -> "Embedder":
        """Return the model as the head reads cells by it: itself, where it changes nothing.

        Raises
        ------
        ValueError
            If the changes do not fit the model.
        """
        return model.changed(self.changes) if self.changes else model

    def log_probabilities(
        self, texts: np.ndarray, features: np.ndarray, tokens: TokenBlock
    ) -> np.ndarray:
        """Return log-probabilities of the labels, float32, shape (n_cells, n_labels).

        Parameters
        ----------
        texts: log-probabilities of the labels by their texts, shape (n_cells, n_labels)
        features: of the same cells, float32, shape (n_cells, embedding_dim)
        tokens: ranked genes of the same cells
        """
        logits = self.text_weight * texts.astype(np.float64) + self.log_odds(features, tokens)
        return normalised(logits).astype(np.float32)

    def log_odds(self, features: np.ndarray, tokens: TokenBlock) -> np.ndarray:
        """Return what labelled cells say of the labels, texts apart: float64, (n_cells, n_labels)."""
        logits = self.intercepts + features.astype(np.float64) @ self.feature_weights.T
        genes = rank_weights(tokens, self.gene_tokens)
        return logits + genes @ self.gene_weights.T.astype(np.float64)

    def notes(self) -> dict[str, str | int]:
        """Return what a reader of the calls must know of it."""
        return {
            "id": self.identifier,
            "kind": self.kind,
            "target": self.target,
            "n_cells": int(self.n_shots.sum()),
        }

    def names(self, ontology: Ontology) -> list[str]:
        """Return the labels as readers know them."""
        return [ontology.terms[key].name if key in ontology.index else key for key in self.keys]


def normalised(logits: np.ndarray) -> np.ndarray:
    """Turn log-odds of labels into log-probabilities, shape (n_cells, n_labels)."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def share_of_rank(ranks: np.ndarray) -> np.ndarray:
    """Return what genes of some ranks, from 0, weigh: 1 / sqrt(1 + r / 16)."""
    weights: np.ndarray = 1 / np.sqrt(1 + ranks / _HALF_RANK)
    return weights


def rank_weights(tokens: TokenBlock, genes: np.ndarray) -> sparse.csr_matrix:
    """Return what the ranks of genes say, float64, shape (n_cells, n_genes).

    A gene weighs its `share_of_rank`, one that is not among the tokens nothing: neither depth nor
    the scale of the values matters.

    Parameters
    ----------
    tokens: ranked genes of cells
    genes: tokens that get a column, ascending, shape (n_genes,)
    """
    lengths = np.diff(tokens.offsets)
    rows = np.repeat(np.arange(tokens.n_cells), lengths)
    ranks = np.arange(len(tokens.tokens)) - np.repeat(tokens.offsets[:-1], lengths)
    columns = np.searchsorted(genes, tokens.tokens)
    known = columns < len(genes)
    known[known] = genes[columns[known]] == tokens.tokens[known]
    values = share_of_rank(ranks[known])
    shape = (tokens.n_cells, len(genes))
    return sparse.csr_matrix((values, (rows[known], columns[known])), shape=shape)
