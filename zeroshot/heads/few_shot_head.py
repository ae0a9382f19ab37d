"""Few-shot head: a linear classifier on cell embeddings, gene ranks and label texts."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import sparse

from langcell.checkpoints.weight_changes import WeightChanges, digest_of
from langcell.runtime.parameter_names import option
from langcell.tokens.tokenizer import TokenBlock
from ontology.graph import Ontology
from zeroshot.confidence.calibration import Calibration
from zeroshot.confidence.novelty import Novelty

if TYPE_CHECKING:
    from langcell.model.embedder import Embedder
    from zeroshot.labels.candidates import CandidateSet

# Kinds of labels: the type of a cell, the state of a cell, or a property of a donor.
TYPE, STATE, DONOR = "type", "state", "donor"
TARGETS = (TYPE, STATE, DONOR)
HELD_OUT = ("cells held out from the head",)  # `fitted_on` of a calibration of a head
_HALF_RANK = 16  # rank at which the weight of a gene is 1 / sqrt(2)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FewShotHead:
    """Linear classifier of cells, added to the zero-shot log-probabilities of the labels.

    The logit of label i for a cell is

        text_weight * log p(i) + feature_weights[i] @ f + gene_weights[i] @ g + intercepts[i]

    where p are the zero-shot probabilities of the labels, f is the embedding of the cell and g its
    `rank_weights`. If the model was fine-tuned with the head, cells are embedded after applying
    `changes` to its weights.

    Attributes
    ----------
    kind: fitting method, one of `zeroshot.fit.fit_few_shot.KINDS`
    keys: keys of the labels: Cell Ontology ids, or "text: <words>"
    n_shots: labelled cells per label, 0 for labels known by their text only, shape (n_labels,)
    text_weight: weight of the zero-shot log-probabilities
    feature_weights: float32, shape (n_labels, embedding_dim)
    gene_tokens: tokens of the genes in use, ascending, int32, shape (n_genes,)
    gene_weights: float32, shape (n_labels, n_genes)
    intercepts: float32, shape (n_labels,)
    model, model_sha256: model of the embeddings and tokens
    calibration: calibration curves of the probabilities
    novelty: out-of-distribution score by the labelled cells
    target: kind of the labels, one of `TARGETS`; the logits of a donor are the mean over its cells
    by_types: for donors, average within each cell type first, then over cell types
    changes: changes of the model's weights
    matches: also score each label with the matching head of the model, and add the log-probability
        of a match to log p
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
        """Whether the calibration was fitted for the head, not for the model without it."""
        return self.calibration.fitted_on == HELD_OUT

    @property
    def identifier(self) -> str:
        """Short hash of the weights, for uns."""
        digest = hashlib.sha256("\n".join((*self.keys, self.model_sha256)).encode())
        arrays = (self.feature_weights, self.gene_tokens, self.gene_weights, self.intercepts)
        for each in (*arrays, self.novelty.prototypes):
            digest.update(np.ascontiguousarray(each).tobytes())
        digest.update(np.float64(self.text_weight).tobytes())
        digest.update(digest_of(self.changes).encode())
        return digest.hexdigest()[:12]

    def check_fits(self, model: "Embedder", candidates: "CandidateSet") -> None:
        """Raise unless the head was fitted with this model and these candidates.

        Raises
        ------
        ValueError
            If the weights of the model or the candidates differ.
        """
        if model.sha256 != self.model_sha256:
            raise ValueError(
                f"the head was fitted on model {self.model} ({self.model_sha256[:12]}), and this "
                f"model has other weights ({model.sha256[:12]}): give that one as "
                f"{option('model')}, or fit again"
            )
        if candidates.keys != self.keys:
            raise ValueError(
                f"the head has {len(self.keys)} labels of its own, and other candidates were given: "
                f"leave out {option('labels')}; to add labels without cells, give them when fitting "
                "the head"
            )

    def adapt(self, model: "Embedder") -> "Embedder":
        """Return the model with the weight changes of the head applied, or the model itself if none.

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
        texts: zero-shot log-probabilities of the labels, shape (n_cells, n_labels)
        features: of the same cells, float32, shape (n_cells, embedding_dim)
        tokens: ranked genes of the same cells
        """
        logits = self.text_weight * texts.astype(np.float64) + self.log_odds(features, tokens)
        return log_softmax(logits).astype(np.float32)

    def log_odds(self, features: np.ndarray, tokens: TokenBlock) -> np.ndarray:
        """Return the logits without the text term, float64, shape (n_cells, n_labels)."""
        logits = self.intercepts + features.astype(np.float64) @ self.feature_weights.T
        genes = rank_weights(tokens, self.gene_tokens)
        return logits + genes @ self.gene_weights.T.astype(np.float64)

    def notes(self) -> dict[str, str | int]:
        """Return the record of the head for uns."""
        return {
            "id": self.identifier,
            "kind": self.kind,
            "target": self.target,
            "n_cells": int(self.n_shots.sum()),
        }

    def names(self, ontology: Ontology) -> list[str]:
        """Return the names of the labels."""
        return [ontology.terms[key].name if key in ontology.index else key for key in self.keys]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log-softmax of logits over labels, shape (n_cells, n_labels)."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def weight_of_rank(ranks: np.ndarray) -> np.ndarray:
    """Return the weights of genes by rank r, from 0: 1 / sqrt(1 + r / 16)."""
    weights: np.ndarray = 1 / np.sqrt(1 + ranks / _HALF_RANK)
    return weights


def rank_weights(tokens: TokenBlock, genes: np.ndarray) -> sparse.csr_matrix:
    """Return the rank weights of genes, float64, shape (n_cells, n_genes).

    The weight of a gene is its `weight_of_rank`, or 0 if it is not among the tokens of the cell. So
    it depends neither on sequencing depth nor on the scale of the values.

    Parameters
    ----------
    tokens: ranked genes of cells
    genes: tokens of the columns, ascending, shape (n_genes,)
    """
    lengths = np.diff(tokens.offsets)
    rows = np.repeat(np.arange(tokens.n_cells), lengths)
    ranks = np.arange(len(tokens.tokens)) - np.repeat(tokens.offsets[:-1], lengths)
    columns = np.searchsorted(genes, tokens.tokens)
    known = columns < len(genes)
    known[known] = genes[columns[known]] == tokens.tokens[known]
    values = weight_of_rank(ranks[known])
    shape = (tokens.n_cells, len(genes))
    return sparse.csr_matrix((values, (rows[known], columns[known])), shape=shape)


class HasHead(Protocol):
    """A head with what was measured of it, as `langcell.fit_few_shot` returns."""

    @property
    def head(self) -> FewShotHead:
        """The head itself."""
