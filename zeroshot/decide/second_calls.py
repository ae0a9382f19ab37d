"""How sure second calls are, and the deepest terms that are sure: back-off on terms of a file."""

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

_BLOCK_ROWS = 1024  # whose terms are all in memory at once


@dataclass(frozen=True, kw_only=True, eq=False)
class BackoffRule:
    """How the cells of an annotated file were called, to call them again by other scores.

    Attributes
    ----------
    tree: the terms that may be called
    curve: how probabilities become confidences
    level: least confidence of a call
    """

    tree: TermTree
    curve: CalibrationCurve
    level: float

    @classmethod
    def of(cls, scores: CellScores, notes: Mapping[str, Any], ontology: Ontology) -> "BackoffRule":
        """Take the rule from what annotating wrote to uns.

        Parameters
        ----------
        scores: of the file
        notes: what annotating wrote; without a calibration probabilities stay as they are
        ontology: release that holds the candidates
        """
        if any(key not in ontology.index for key in scores.candidate_ids if not is_words(key)):
            raise ValueError(_other_release(notes))
        described = str(notes.get("candidates", ""))
        candidates = CandidateSet(
            ids=tuple("" if is_words(key) else key for key in scores.candidate_ids),
            names=scores.candidate_names,
            texts=scores.candidate_names,
            described=described,
            is_choice=described == "given",
        )
        calibration = notes.get("calibration", {})
        names = [each.name for each in fields(CalibrationCurve) if each.name in calibration]
        level = notes.get("parameters", {}).get("confidence", AnnotateOptions.confidence)
        return cls(
            tree=TermTree.of(candidates, ontology),
            curve=CalibrationCurve(**{name: float(calibration[name]) for name in names}),
            level=float(level),
        )

    def __call__(self, beliefs: "TermProbabilities", best: np.ndarray | None = None) -> Calls:
        """Call rows the deepest term that is sure enough.

        Parameters
        ----------
        beliefs: a row a cell or cluster
        best: candidate of each row that `leaf_confidence` is of, -1 for none; the best of the scores
            by default
        """
        best = beliefs.scores.best if best is None else best
        starts = range(0, max(1, len(best)), _BLOCK_ROWS)
        return Calls.joined([self._call_block(beliefs, best, start) for start in starts])

    def labels(self, calls: Calls) -> tuple[np.ndarray, np.ndarray]:
        """Return name and Cell Ontology id of each call, "unknown" and '' where it is none."""
        names = np.array([*self.tree.names, UNKNOWN], dtype=object)
        ids = np.array([*self.tree.ids, ""], dtype=object)
        return names[calls.terms], ids[calls.terms]

    def _call_block(self, beliefs: "TermProbabilities", best: np.ndarray, start: int) -> Calls:
        rows = slice(start, start + _BLOCK_ROWS)
        probabilities = beliefs.terms.probabilities[rows].toarray().astype(np.float64)
        most_probable, highest = self._climb(probabilities)
        candidates = best[rows]
        leaf_terms, cells = self.tree.candidate_terms[candidates], np.arange(len(candidates))
        # A label that is not the best may be too improbable to be among the terms that are kept.
        own = np.asarray(beliefs.scores.probabilities[rows][cells, candidates]).ravel()
        stored = probabilities[cells, leaf_terms]
        by_depth = TermsByDepth(
            tree=self.tree,
            terms=most_probable,
            probabilities=highest,
            leaf_terms=leaf_terms,
            leaf_probabilities=np.where(stored > 0, stored, own),
        )
        calls = back_off(by_depth, self.curve, threshold=self.level)
        leaf = np.where(candidates >= 0, calls.leaf_confidence, np.nan).astype(np.float32)
        return Calls(terms=calls.terms, confidence=calls.confidence, leaf_confidence=leaf)

    def _climb(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the most probable term of each depth that may be called, and how probable it is."""
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
    """What is known of each cell.

    Attributes
    ----------
    scores: of its candidates
    terms: probabilities of the terms that it could be called, of the same cells
    """

    scores: CellScores
    terms: CellScores

    def smoothed(
        self, graph: sparse.spmatrix | np.ndarray, *, strength: float
    ) -> "TermProbabilities":
        """Smooth both on a graph of the cells (`smooth_scores`)."""
        return TermProbabilities(
            smooth_scores(self.scores, graph, strength=strength),
            smooth_scores(self.terms, graph, strength=strength),
        )

    def pooled(
        self, clusters: np.ndarray, pooling: Pooling
    ) -> tuple[Consensus, "TermProbabilities"]:
        """Pool both over clusters (`cluster_consensus`); terms, which sum candidates, by the mean.

        Returns
        -------
        Consensus of the scores, and what is known of each cluster, in its order.
        """
        consensus = cluster_consensus(self.scores, clusters, pooling=pooling)
        terms = cluster_consensus(self.terms, clusters).clusters
        return consensus, TermProbabilities(consensus.clusters, terms)

    def part(self, rows: np.ndarray) -> "TermProbabilities":
        """Return what is known of some cells, in the order of their rows."""
        return TermProbabilities(self.scores.part(rows), self.terms.part(rows))


def is_words(key: str) -> bool:
    """Tell whether the identifier of a candidate is of words, and not of a term."""
    return key.startswith(FREE_TEXT)


def _other_release(notes: Mapping[str, Any]) -> str:
    release = notes.get("ontology_release", "not noted")
    return (
        f"calls were made with another release of the Cell Ontology ({release}): name cells again"
    )


def read_terms(source: "AnnData | str | Path", tree: TermTree, *, key: str) -> CellScores:
    """Read how probable the terms are that cells could be called; columns are those of the tree.

    Raises
    ------
    ValueError
        If the source has none, or has those of another release of the ontology.
    """
    slots = Slots(key=key)
    probabilities = read_slot(source, f"obsm/{slots.terms}")
    notes = read_slot(source, f"uns/{slots.key}") or {}
    where = source if isinstance(source, str | Path) else "the AnnData"
    if probabilities is None:
        raise ValueError(f"{where} has no obsm[{slots.terms!r}]: name its cells again")
    if tuple(map(str, notes.get("term_ids", ()))) != tree.keys:
        raise ValueError(f"{where}: {_other_release(notes)}")
    return CellScores(
        probabilities=sparse.csr_matrix(probabilities),
        candidate_ids=tree.keys,
        candidate_names=tree.names,
    )
