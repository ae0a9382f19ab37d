"""Annotation results: blocks of cells during a run, and the calls of all cells."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.runtime.parameter_names import option
from zeroshot.confidence.backoff import UNKNOWN, Calls, ProbableTerms
from zeroshot.confidence.term_tree import TermTree
from zeroshot.labels.candidates import CandidateSet
from zeroshot.scores.scores import Scores

if TYPE_CHECKING:
    import pandas as pd

    from langcell.tokens.tokenizer import Coverage

DECODERS = ("smooth", "cluster", "assigned")


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Names of obs columns and obsm and uns entries in an annotated file; all contain `key`."""

    key: str = "langcell"

    def __post_init__(self) -> None:
        if not self.key or "/" in self.key:
            raise ValueError(f"{option('key_added')} must be a name without '/', got {self.key!r}")

    @property
    def label(self) -> str:
        """Obs column: name of the call after back-off."""
        return f"{self.key}_label"

    @property
    def term(self) -> str:
        """Obs column: Cell Ontology id of the call after back-off."""
        return f"{self.key}_ontology_term_id"

    @property
    def confidence(self) -> str:
        """Obs column: probability that the call is the true type or an ancestor of it."""
        return f"{self.key}_confidence"

    @property
    def leaf_confidence(self) -> str:
        """Obs column: the same probability for the best candidate."""
        return f"{self.key}_leaf_confidence"

    @property
    def ood(self) -> str:
        """Obs column: out-of-distribution score."""
        return f"{self.key}_ood"

    @property
    def leaf_label(self) -> str:
        """Obs column: name of the best candidate."""
        return f"{self.key}_leaf_label"

    @property
    def leaf_term(self) -> str:
        """Obs column: Cell Ontology id of the best candidate."""
        return f"{self.key}_leaf_ontology_term_id"

    @property
    def margin(self) -> str:
        """Obs column: probability of the best candidate minus that of the runner-up."""
        return f"{self.key}_margin"

    @property
    def features(self) -> str:
        """Obsm key: cell embeddings."""
        return f"X_{self.key}"

    @property
    def scores(self) -> str:
        """Obsm key: sparse scores of the candidates."""
        return f"{self.key}_scores"

    @property
    def terms(self) -> str:
        """Obsm key: sparse probabilities of the terms for back-off."""
        return f"{self.key}_terms"

    @property
    def cluster(self) -> str:
        """Obs column: cluster of the cell, if calls were made per cluster."""
        return f"{self.key}_cluster"

    def decoded_columns(self, decoder: str) -> tuple[str, ...]:
        """Return the obs columns of a decoder.

        These are name, id and confidence of its call, and, for calls that back off, name and id of
        the best candidate.
        """
        call = ("label", "ontology_term_id", "confidence")
        leaf = () if decoder == "assigned" else ("leaf_label", "leaf_ontology_term_id")
        return tuple(f"{self.key}_{decoder}_{name}" for name in (*call, *leaf))

    def decoding(self, decoder: str) -> str:
        """Return the uns key of the report of a decoder."""
        return f"{self.key}/decoding/{decoder}"

    def decoded_paths(self, decoders: Iterable[str]) -> list[str]:
        """Return the paths in an h5ad file that decoders write."""
        return [
            *(f"obs/{name}" for each in decoders for name in self.decoded_columns(each)),
            *(f"obs/{self.cluster}" for each in decoders if each == "cluster"),
            *(f"uns/{self.decoding(each)}" for each in decoders),
        ]

    @property
    def annotated_paths(self) -> list[str]:
        """Paths in an h5ad file that `annotate` writes."""
        call = (self.label, self.term, self.confidence)
        leaf = (self.leaf_label, self.leaf_term, self.leaf_confidence, self.margin)
        obs = (*call, *leaf, self.ood)
        obsm = (self.features, self.scores, self.terms)
        return [*(f"obs/{x}" for x in obs), *(f"obsm/{x}" for x in obsm), f"uns/{self.key}"]

    @property
    def paths(self) -> list[str]:
        """The same and the obs columns of decoders, which new scores make outdated."""
        decoded = (path for path in self.decoded_paths(DECODERS) if path.startswith("obs/"))
        return [*self.annotated_paths, *decoded]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationBlock:
    """Annotations of a block of consecutive cells.

    Attributes
    ----------
    start: row of the first cell
    features: cell embeddings, float32, shape (n_cells, embedding_dim), or (n_cells, 0) if the output
        does not hold them
    scores: scores of the best candidates
    calls: calls after back-off
    probable_terms: probabilities of the terms for back-off; empty if the output does not hold them
    ood: out-of-distribution score, float32, shape (n_cells,)
    """

    start: int
    features: np.ndarray
    scores: Scores
    calls: Calls
    probable_terms: ProbableTerms
    ood: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Calls of all cells.

    Attributes
    ----------
    cell_names: shape (n_cells,)
    best: index of the best candidate of each cell, int32, shape (n_cells,)
    margin: probability of the best candidate minus that of the runner-up, float32, shape (n_cells,)
    tree: terms for back-off
    calls: calls after back-off
    ood: out-of-distribution score, float32, shape (n_cells,)
    coverage: overlap of the genes of the file with those of the model
    seconds: time for embedding, scoring and writing
    n_resumed: number of cells taken from an interrupted run
    details: record for uns: model, ontology, candidates, counts, calibration, parameters
    """

    slots: Slots
    cell_names: np.ndarray
    candidates: CandidateSet
    best: np.ndarray
    margin: np.ndarray
    tree: TermTree
    calls: Calls
    ood: np.ndarray
    coverage: "Coverage"
    seconds: float
    n_resumed: int
    details: dict[str, Any]

    @property
    def labels(self) -> np.ndarray:
        """Name of each cell's call after back-off, or "unknown", shape (n_cells,)."""
        return np.array([*self.tree.names, UNKNOWN], dtype=object)[self.calls.terms]

    @property
    def label_ids(self) -> np.ndarray:
        """Cell Ontology id of each call, '' for unknown and free text, shape (n_cells,)."""
        return np.array([*self.tree.ids, ""], dtype=object)[self.calls.terms]

    @property
    def names(self) -> np.ndarray:
        """Name of each cell's best candidate, shape (n_cells,)."""
        return np.array(self.candidates.names, dtype=object)[self.best]

    @property
    def term_ids(self) -> np.ndarray:
        """Cell Ontology id of each best candidate, '' for free text, shape (n_cells,)."""
        return np.array(self.candidates.ids, dtype=object)[self.best]

    @property
    def label_keys(self) -> np.ndarray:
        """Key of each call: its id or "text: <words>", '' for unknown, shape (n_cells,)."""
        return np.array([*self.tree.keys, ""], dtype=object)[self.calls.terms]

    @property
    def keys(self) -> np.ndarray:
        """Key of each cell's best candidate, shape (n_cells,)."""
        return np.array(self.candidates.keys, dtype=object)[self.best]

    def columns(self) -> dict[str, np.ndarray]:
        """Return the obs columns by name, each of shape (n_cells,)."""
        return {
            self.slots.label: self.labels,
            self.slots.term: self.label_ids,
            self.slots.confidence: self.calls.confidence,
            self.slots.leaf_label: self.names,
            self.slots.leaf_term: self.term_ids,
            self.slots.leaf_confidence: self.calls.leaf_confidence,
            self.slots.margin: self.margin,
            self.slots.ood: self.ood,
        }

    def table(self) -> "pd.DataFrame":
        """Return the obs columns, text as categorical, indexed by cell name."""
        import pandas as pd

        columns = {
            name: pd.Categorical(values) if values.dtype == object else values
            for name, values in self.columns().items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.cell_names, name="cell"))

    def calls_per_type(self) -> list[tuple[str, str, int]]:
        """Return name, id and number of cells of each call, most cells first."""
        called, n_cells = np.unique(self.calls.terms, return_counts=True)
        order = np.argsort(-n_cells, kind="stable")
        names, ids = [*self.tree.names, UNKNOWN], [*self.tree.ids, ""]
        return [
            (names[i], ids[i], int(n)) for i, n in zip(called[order], n_cells[order], strict=True)
        ]
