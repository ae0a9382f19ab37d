"""From candidates to terms of the ontology: how probable each is, and the deepest that is sure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from zeroshot.confidence.backoff_kernel import N_OTHERS, sum_over_ancestors
from zeroshot.confidence.calibration import CalibrationCurve
from zeroshot.confidence.term_tree import TermTree
from zeroshot.scores.scores import rounded

UNKNOWN = "unknown"  # what a cell is called that no term is sure for


def term_probabilities(
    log_probabilities: np.ndarray, tree: TermTree, *, temperature: float = 1.0
) -> np.ndarray:
    """Return how probable it is that each term is true of a cell.

    That is the probability of the candidates at or below it, each counted once however many ways
    lead up from it: a parent is never less probable than a child, and the root has it all.

    Parameters
    ----------
    log_probabilities: of all candidates, shape (n_cells, n_candidates)
    tree: of the same candidates
    temperature: log-probabilities are divided by it

    Returns
    -------
    float64, shape (n_cells, n_terms)
    """
    scaled = log_probabilities.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares @ tree.above


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbableTerms:
    """A few terms of each cell and how probable they are, as they are stored.

    Attributes
    ----------
    terms: rows of the tree, none twice in a cell, -1 for none, int32, shape (n_cells, k)
    probabilities: of the same terms, 0 for none
    n_terms: of the tree
    """

    terms: np.ndarray
    probabilities: np.ndarray
    n_terms: int

    def to_csr(self) -> sparse.csr_matrix:
        """Return probabilities, shape (n_cells, n_terms)."""
        order = np.argsort(self.terms, axis=1)
        terms = np.take_along_axis(self.terms, order, axis=1)
        probabilities = np.take_along_axis(self.probabilities, order, axis=1)
        kept = (terms >= 0) & (probabilities > 0)
        indptr = np.append(0, np.cumsum(kept.sum(axis=1)))
        return sparse.csr_matrix(
            (probabilities[kept], terms[kept], indptr), shape=(len(terms), self.n_terms)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TermsByDepth:
    """The way up the ontology that each cell can back off: its most probable term of each depth.

    Attributes
    ----------
    tree: the terms
    terms: row of the most probable callable term of each depth, -1 for none, int32, shape
        (n_cells, n_depths)
    probabilities: of the same terms, float64, 0 for none
    leaf_terms: row of the term of the best candidate, int32, shape (n_cells,)
    leaf_probabilities: of the same, with all that is below it, float64
    others: further probable terms, which pooling needs; None where they are not known
    """

    tree: TermTree
    terms: np.ndarray
    probabilities: np.ndarray
    leaf_terms: np.ndarray
    leaf_probabilities: np.ndarray
    others: ProbableTerms | None = None

    @property
    def probable_terms(self) -> ProbableTerms:
        """All terms whose probability is known, each once, float32 of five decimals."""
        terms = [self.terms, *([self.others.terms] if self.others else [])]
        probabilities = [self.probabilities, *([self.others.probabilities] if self.others else [])]
        leaf = self.leaf_terms[:, None]
        is_new = ~(np.hstack(terms) == leaf).any(axis=1, keepdims=True)
        return ProbableTerms(
            terms=np.hstack([*terms, np.where(is_new, leaf, -1)]).astype(np.int32),
            probabilities=rounded(
                np.hstack([*probabilities, is_new * self.leaf_probabilities[:, None]])
            ),
            n_terms=len(self.tree.ids),
        )


def n_probable(tree: TermTree) -> int:
    """Count the terms that `TermsByDepth.probable_terms` has room for in each cell."""
    return tree.n_depths + N_OTHERS + 1


def terms_by_depth(
    log_probabilities: np.ndarray, tree: TermTree, best: np.ndarray, *, temperature: float
) -> TermsByDepth:
    """Find the most probable term of each depth.

    Parameters
    ----------
    log_probabilities: of all candidates, float32, shape (n_cells, n_candidates)
    tree: of the same candidates
    best: best candidate of each cell, int, shape (n_cells,)
    temperature: log-probabilities are divided by it
    """
    leaf_terms = tree.candidate_terms[best]
    terms, probabilities, leaf_probabilities, other_terms, others = sum_over_ancestors(
        log_probabilities, tree, leaf_terms, temperature=temperature
    )
    return TermsByDepth(
        tree=tree,
        terms=terms,
        probabilities=probabilities,
        leaf_terms=leaf_terms,
        leaf_probabilities=leaf_probabilities,
        others=ProbableTerms(terms=other_terms, probabilities=others, n_terms=len(tree.ids)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Calls:
    """What cells are called after back-off.

    Attributes
    ----------
    terms: row of the term in the tree, -1 for unknown, int32, shape (n_cells,)
    confidence: calibrated probability that the term is the truth or an ancestor of it, float32 of
        five decimals; of an unknown cell that of its surest term, which is below the level
    leaf_confidence: the same of the best candidate, before back-off
    """

    terms: np.ndarray
    confidence: np.ndarray
    leaf_confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.terms)

    def take(self, rows: np.ndarray) -> "Calls":
        """Return the calls of some rows, in their order."""
        return Calls(
            terms=self.terms[rows],
            confidence=self.confidence[rows],
            leaf_confidence=self.leaf_confidence[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence["Calls"]) -> "Calls":
        """Return the calls of several parts, one after the other."""
        return cls(
            terms=np.concatenate([each.terms for each in parts]),
            confidence=np.concatenate([each.confidence for each in parts]),
            leaf_confidence=np.concatenate([each.leaf_confidence for each in parts]),
        )


def back_off(by_depth: TermsByDepth, curve: CalibrationCurve, *, level: float) -> Calls:
    """Call the deepest term whose calibrated probability reaches a level.

    Parameters
    ----------
    by_depth: made with the temperature of the regime
    curve: how probabilities become confidences
    level: least confidence of a call, between 0 and 1
    """
    labelled = np.arange(by_depth.terms.shape[1])
    # Judged as it is written, so that no call shows a confidence below the level.
    confidence = rounded(curve.confidence(by_depth.probabilities, labelled))  # (n_cells, n_depths)
    confidence[by_depth.terms < 0] = 0
    deepest = np.where(confidence >= np.float32(level), labelled, -1).max(axis=1)  # (n_cells,)
    is_known = deepest >= 0
    called = np.where(is_known, deepest, confidence.argmax(axis=1))
    cells = np.arange(len(called))
    depths = by_depth.tree.depths[by_depth.leaf_terms]
    return Calls(
        terms=np.where(is_known, by_depth.terms[cells, called], -1).astype(np.int32),
        confidence=confidence[cells, called],
        leaf_confidence=rounded(curve.confidence(by_depth.leaf_probabilities, depths)),
    )
