"""Back-off and confidence of second calls, from the term probabilities of an annotated file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ontology.graph import Ontology
from zeroshot.annotate.options import AnnotateOptions
from zeroshot.confidence.backoff import UNKNOWN, Calls, TermsByDepth, back_off
from zeroshot.confidence.calibration import CalibrationCurve
from zeroshot.confidence.term_tree import TermTree
from zeroshot.decide.cluster_consensus import Consensus, cluster_consensus
from zeroshot.decide.options import Pooling
from zeroshot.decide.smoothing import smooth_scores
from zeroshot.labels.candidates import FREE_TEXT, CandidateSet
from zeroshot.results.annotations import Slots
from zeroshot.results.cell_scores import CellScores, read_slot

if TYPE_CHECKING:
    from anndata import AnnData

_BLOCK_ROWS = 1024  # rows whose term probabilities are dense at once


@dataclass(frozen=True, kw_only=True, eq=False)
class BackoffRule:
    """Back-off as in an annotated file, to call its cells again with other scores.

    Attributes
    ----------
    tree: terms for back-off
    curve: maps probabilities to confidences
    threshold: lowest confidence of a call
    """

    tree: TermTree
    curve: CalibrationCurve
    threshold: float

    @classmethod
    def of(cls, scores: CellScores, notes: Mapping[str, Any], ontology: Ontology) -> "BackoffRule":
        """Read the back-off of a file from its record in uns.

        Parameters
        ----------
        scores: scores of the file
        notes: record of `annotate` in uns; without a calibration, confidences are probabilities
        ontology: release of the Cell Ontology with the candidates
        """
        if any(key not in ontology.index for key in scores.candidate_ids if not is_free_text(key)):
            raise ValueError(_other_release(notes))
        described = str(notes.get("candidates", ""))
        candidates = CandidateSet(
            ids=tuple("" if is_free_text(key) else key for key in scores.candidate_ids),
            names=scores.candidate_names,
            texts=scores.candidate_names,
            described=described,
            is_choice=described == "given",
        )
        calibration = notes.get("calibration", {})
        names = [each.name for each in fields(CalibrationCurve) if each.name in calibration]
        threshold = notes.get("parameters", {}).get("confidence", AnnotateOptions.confidence)
        return cls(
            tree=TermTree.of(candidates, ontology),
            curve=CalibrationCurve(**{name: float(calibration[name]) for name in names}),
            threshold=float(threshold),
        )

    def __call__(self, probabilities: "TermProbabilities", best: np.ndarray | None = None) -> Calls:
        """Call each row the deepest term whose confidence reaches the threshold.

        Parameters
        ----------
        probabilities: one row per cell or cluster
        best: candidate of each row for `leaf_confidence`, -1 for none; by default the best candidate
        """
        best = probabilities.scores.best if best is None else best
        starts = range(0, max(1, len(best)), _BLOCK_ROWS)
        return Calls.joined([self._call_block(probabilities, best, start) for start in starts])

    def labels(self, calls: Calls) -> tuple[np.ndarray, np.ndarray]:
        """Return name and Cell Ontology id of each call, "unknown" and '' for no call."""
        names = np.array([*self.tree.names, UNKNOWN], dtype=object)
        ids = np.array([*self.tree.ids, ""], dtype=object)
        return names[calls.terms], ids[calls.terms]

    def _call_block(self, given: "TermProbabilities", best: np.ndarray, start: int) -> Calls:
        rows = slice(start, start + _BLOCK_ROWS)
        probabilities = given.terms.probabilities[rows].toarray().astype(np.float64)
        most_probable, highest = self._best_by_depth(probabilities)
        candidates = best[rows]
        leaf_terms, cells = self.tree.candidate_terms[candidates], np.arange(len(candidates))
        # The term of a candidate that is not the best may not be stored: use the candidate's score.
        own = np.asarray(given.scores.probabilities[rows][cells, candidates]).ravel()
        stored = probabilities[cells, leaf_terms]
        by_depth = TermsByDepth(
            tree=self.tree,
            terms=most_probable,
            probabilities=highest,
            leaf_terms=leaf_terms,
            leaf_probabilities=np.where(stored > 0, stored, own),
        )
        calls = back_off(by_depth, self.curve, threshold=self.threshold)
        leaf = np.where(candidates >= 0, calls.leaf_confidence, np.nan).astype(np.float32)
        return Calls(terms=calls.terms, confidence=calls.confidence, leaf_confidence=leaf)

    def _best_by_depth(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the most probable callable term of each depth, and its probability."""
        tree, cells = self.tree, np.arange(len(probabilities))
        terms = np.full((len(cells), tree.n_depths), -1, dtype=np.int32)
        highest = np.zeros(terms.shape)
        for depth in range(tree.n_depths):
            columns = np.flatnonzero((tree.depths == depth) & tree.is_callable)
            if len(columns):
                best = columns[probabilities[:, columns].argmax(axis=1)]
                highest[:, depth] = probabilities[cells, best]
                terms[:, depth] = np.where(highest[:, depth] > 0, best, -1)
        return terms, highest


@dataclass(frozen=True, eq=False)
class TermProbabilities:
    """Probabilities of candidates and of terms for the same cells (or clusters).

    Attributes
    ----------
    scores: probabilities of the candidates
    terms: probabilities of the terms for back-off
    """

    scores: CellScores
    terms: CellScores

    def smoothed(
        self, graph: sparse.spmatrix | np.ndarray, *, strength: float
    ) -> "TermProbabilities":
        """Smooth both on a kNN graph of the cells (`smooth_scores`)."""
        return TermProbabilities(
            smooth_scores(self.scores, graph, strength=strength),
            smooth_scores(self.terms, graph, strength=strength),
        )

    def pooled(
        self, clusters: np.ndarray, pooling: Pooling
    ) -> tuple[Consensus, "TermProbabilities"]:
        """Pool both over clusters (`cluster_consensus`); terms always by the mean.

        Returns
        -------
        Consensus of the scores, and the pooled probabilities, one row per cluster.
        """
        consensus = cluster_consensus(self.scores, clusters, pooling=pooling)
        terms = cluster_consensus(self.terms, clusters).clusters
        return consensus, TermProbabilities(consensus.clusters, terms)

    def take(self, rows: np.ndarray) -> "TermProbabilities":
        """Return the given rows, in that order."""
        return TermProbabilities(self.scores.take(rows), self.terms.take(rows))


def is_free_text(key: str) -> bool:
    """Return whether the identifier of a candidate is free text, not a term."""
    return key.startswith(FREE_TEXT)


def _other_release(notes: Mapping[str, Any]) -> str:
    release = notes.get("ontology_release", "not noted")
    return f"the calls are from another release of the Cell Ontology ({release}): annotate again"


def read_terms(source: "AnnData | str | Path", tree: TermTree, *, key: str) -> CellScores:
    """Read the term probabilities of an annotated source; columns are the terms of the tree.

    Raises
    ------
    ValueError
        If the source has none, or they are from another release of the ontology.
    """
    slots = Slots(key=key)
    probabilities = read_slot(source, f"obsm/{slots.terms}")
    notes = read_slot(source, f"uns/{slots.key}") or {}
    where = source if isinstance(source, str | Path) else "the AnnData"
    if probabilities is None:
        raise ValueError(f"{where} has no obsm[{slots.terms!r}]: annotate it again")
    if tuple(map(str, notes.get("term_ids", ()))) != tree.keys:
        raise ValueError(f"{where}: {_other_release(notes)}")
    return CellScores(
        probabilities=sparse.csr_matrix(probabilities),
        candidate_ids=tree.keys,
        candidate_names=tree.names,
    )
