"""What annotating yields: blocks on the way, and the calls of all cells at the end."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.runtime.short_table import ShortTable
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
    """Names of the results in an annotated file; all begin with `key`."""

    key: str = "langcell"

    def __post_init__(self) -> None:
        if not self.key or "/" in self.key:
            raise ValueError(f"--key-added must be a name without '/', got {self.key!r}")

    @property
    def label(self) -> str:
        """Column of obs with the name of the call after back-off."""
        return f"{self.key}_label"

    @property
    def term(self) -> str:
        """Column of obs with the Cell Ontology id of the call after back-off."""
        return f"{self.key}_ontology_term_id"

    @property
    def confidence(self) -> str:
        """Column of obs with the probability that the call is right or above the truth."""
        return f"{self.key}_confidence"

    @property
    def leaf_confidence(self) -> str:
        """Column of obs with the same probability for the best candidate."""
        return f"{self.key}_leaf_confidence"

    @property
    def ood(self) -> str:
        """Column of obs that tells how unlike the training cells a cell is."""
        return f"{self.key}_ood"

    @property
    def leaf_label(self) -> str:
        """Column of obs with the name of the best candidate."""
        return f"{self.key}_leaf_label"

    @property
    def leaf_term(self) -> str:
        """Column of obs with the Cell Ontology id of the best candidate."""
        return f"{self.key}_leaf_ontology_term_id"

    @property
    def margin(self) -> str:
        """Column of obs with the lead over the runner-up."""
        return f"{self.key}_margin"

    @property
    def features(self) -> str:
        """Entry of obsm with the cell features."""
        return f"X_{self.key}"

    @property
    def scores(self) -> str:
        """Entry of obsm with the sparse scores."""
        return f"{self.key}_scores"

    @property
    def terms(self) -> str:
        """Entry of obsm with the probabilities of the terms that a cell could be called."""
        return f"{self.key}_terms"

    @property
    def cluster(self) -> str:
        """Column of obs with the cluster that decided; only where one was asked to."""
        return f"{self.key}_cluster"

    def decoded_columns(self, decoder: str) -> tuple[str, ...]:
        """Return the columns of obs that a decoder writes.

        Name, id and confidence of its call; then, where calls back off, name and id of the best
        single candidate.
        """
        call = ("label", "ontology_term_id", "confidence")
        leaf = () if decoder == "assigned" else ("leaf_label", "leaf_ontology_term_id")
        return tuple(f"{self.key}_{decoder}_{name}" for name in (*call, *leaf))

    def decoding(self, decoder: str) -> str:
        """Return the entry of uns that says what a decoder changed."""
        return f"{self.key}/decoding/{decoder}"

    def decoded_paths(self, decoders: Iterable[str]) -> list[str]:
        """Return what decoders write as places in a file."""
        return [
            *(f"obs/{name}" for each in decoders for name in self.decoded_columns(each)),
            *(f"obs/{self.cluster}" for each in decoders if each == "cluster"),
            *(f"uns/{self.decoding(each)}" for each in decoders),
        ]

    @property
    def annotated_paths(self) -> list[str]:
        """What annotating writes, as places in a file."""
        call = (self.label, self.term, self.confidence)
        leaf = (self.leaf_label, self.leaf_term, self.leaf_confidence, self.margin)
        obs = (*call, *leaf, self.ood)
        obsm = (self.features, self.scores, self.terms)
        return [*(f"obs/{x}" for x in obs), *(f"obsm/{x}" for x in obsm), f"uns/{self.key}"]

    @property
    def paths(self) -> list[str]:
        """Those, and the calls of decoders, which do not outlive the scores."""
        decoded = (path for path in self.decoded_paths(DECODERS) if path.startswith("obs/"))
        return [*self.annotated_paths, *decoded]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationBlock:
    """Consecutive cells.

    Attributes
    ----------
    start: row of the first
    features: float32, shape (n_cells, embedding_dim), or (n_cells, 0) where no output wants them
    scores: best candidates
    calls: after back-off
    probable_terms: that each could be called; none where no output wants them
    ood: how unlike the training cells each is, float32, shape (n_cells,)
    """

    start: int
    features: np.ndarray
    scores: Scores
    calls: Calls
    probable_terms: ProbableTerms
    ood: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Annotations(ShortTable):
    """The calls of all cells.

    Attributes
    ----------
    cell_names: shape (n_cells,)
    best: row of the best candidate of each cell, int32, shape (n_cells,)
    margin: its probability less that of the runner-up, float32, shape (n_cells,)
    tree: the terms that cells may be called after back-off
    calls: after back-off
    ood: how unlike the training cells each is, float32, shape (n_cells,)
    coverage: how much of the file's genes the model knows
    seconds: time that embedding, scoring and writing took
    n_resumed: cells that an interrupted run had annotated before
    details: what goes to uns: model, ontology, candidates, counts, calibration, parameters
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
        """Key of each call, '' for unknown: its id, or "text: " and its words, shape (n_cells,)."""
        return np.array([*self.tree.keys, ""], dtype=object)[self.calls.terms]

    @property
    def keys(self) -> np.ndarray:
        """The same of each best candidate."""
        return np.array(self.candidates.keys, dtype=object)[self.best]

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of obs by name, each of shape (n_cells,)."""
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
        """Return the columns of obs, those of text as categories, indexed by cell name."""
        import pandas as pd

        columns = {
            name: pd.Categorical(values) if values.dtype == object else values
            for name, values in self.columns().items()
        }
        return pd.DataFrame(columns, index=pd.Index(self.cell_names, name="cell"))

    def heading(self) -> str:
        """Return how many cells were annotated, among what, and how many stay unknown."""
        n_cells, n_unknown = len(self.best), int((self.calls.terms < 0).sum())
        return (
            f"{n_cells:,} cells annotated among {len(self.candidates):,} labels "
            f"({self.candidates.described}); {n_unknown:,} unknown"
        )

    def summary(self) -> "pd.DataFrame":
        """Return a row for each label: its id, cells, share and median confidence."""
        import pandas as pd

        sure = pd.Series(self.calls.confidence).groupby(self.labels).median()
        rows = [
            (name, term_id, n_cells, f"{n_cells / len(self.best):.1%}", round(float(sure[name]), 2))
            for name, term_id, n_cells in self.calls_per_type()
        ]
        return pd.DataFrame(
            rows, columns=["label", "ontology_term_id", "cells", "share", "median_confidence"]
        )

    def calls_per_type(self) -> list[tuple[str, str, int]]:
        """Return name, id and number of cells of each call, most cells first."""
        called, n_cells = np.unique(self.calls.terms, return_counts=True)
        order = np.argsort(-n_cells, kind="stable")
        names, ids = [*self.tree.names, UNKNOWN], [*self.tree.ids, ""]
        return [
            (names[i], ids[i], int(n)) for i, n in zip(called[order], n_cells[order], strict=True)
        ]
