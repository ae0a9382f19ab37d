"""Ontology back-off: probabilities of terms, and the deepest term above a confidence threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from zeroshot.confidence.backoff_kernel import N_OTHERS, sum_over_ancestors
from zeroshot.confidence.calibration import CalibrationCurve
from zeroshot.confidence.term_tree import TermTree
from zeroshot.scores.scores import rounded

UNKNOWN = "unknown"  # call of a cell for which no term reaches the confidence threshold


def term_probabilities(
    log_probabilities: np.ndarray, tree: TermTree, *, temperature: float = 1.0
) -> np.ndarray:
    """Return the probability that each term is correct for a cell.

    It is the sum over the candidates that are the term or a descendant of it. Each counts once, even
    if several paths lead to the term. So a parent is at least as probable as its child, and the root
    has probability 1.

    Parameters
    ----------
    log_probabilities: of all candidates, shape (n_cells, n_candidates)
    tree: of the same candidates
    temperature: divisor of the log-probabilities

    Returns
    -------
    float64, shape (n_cells, n_terms)
    """
    scaled = log_probabilities.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares @ tree.lineages


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbableTerms:
    """The stored terms of each cell and their probabilities.

    Attributes
    ----------
    terms: rows of the tree, distinct in each cell, -1 for none, int32, shape (n_cells, k)
    probabilities: of the same terms, 0 for none
    n_terms: number of terms in the tree
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
    """Most probable term of each depth for each cell: the terms to which a call can back off.

    Attributes
    ----------
    tree: the terms
    terms: row of the most probable callable term of each depth, -1 for none, int32, shape
        (n_cells, n_depths)
    probabilities: of the same terms, float64, 0 for none
    leaf_terms: row of the term of the best candidate, int32, shape (n_cells,)
    leaf_probabilities: probability of that term, including its descendants, float64
    others: further probable terms, for pooling over cells; None if unknown
    """

    tree: TermTree
    terms: np.ndarray
    probabilities: np.ndarray
    leaf_terms: np.ndarray
    leaf_probabilities: np.ndarray
    others: ProbableTerms | None = None

    @property
    def probable_terms(self) -> ProbableTerms:
        """All terms with a known probability, each once; float32, five decimals."""
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
    """Return the width of `TermsByDepth.probable_terms`: terms per cell."""
    return tree.n_depths + N_OTHERS + 1


def terms_by_depth(
    log_probabilities: np.ndarray, tree: TermTree, best: np.ndarray, *, temperature: float
) -> TermsByDepth:
    """Find the most probable callable term of each depth.

    Parameters
    ----------
    log_probabilities: of all candidates, float32, shape (n_cells, n_candidates)
    tree: of the same candidates
    best: best candidate of each cell, int, shape (n_cells,)
    temperature: divisor of the log-probabilities
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
    """Calls of cells after back-off.

    Attributes
    ----------
    terms: row of the term in the tree, -1 for unknown, int32, shape (n_cells,)
    confidence: calibrated probability that the true type is the term or a descendant of it, float32,
        five decimals; for an unknown cell the highest of all terms, which is below the threshold
    leaf_confidence: the same for the best candidate, before back-off
    """

    terms: np.ndarray
    confidence: np.ndarray
    leaf_confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.terms)

    def take(self, rows: np.ndarray) -> "Calls":
        """Return the calls of the given rows, in that order."""
        return Calls(
            terms=self.terms[rows],
            confidence=self.confidence[rows],
            leaf_confidence=self.leaf_confidence[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence["Calls"]) -> "Calls":
        """Concatenate the calls of several parts."""
        return cls(
            terms=np.concatenate([each.terms for each in parts]),
            confidence=np.concatenate([each.confidence for each in parts]),
            leaf_confidence=np.concatenate([each.leaf_confidence for each in parts]),
        )


def back_off(by_depth: TermsByDepth, curve: CalibrationCurve, *, threshold: float) -> Calls:
    """Call the deepest term whose confidence reaches the threshold.

    Parameters
    ----------
    by_depth: computed with the temperature of the curve
    curve: maps probabilities to confidences
    threshold: lowest confidence of a call, between 0 and 1
    """
    depths = np.arange(by_depth.terms.shape[1])
    # Compare the rounded value, so that no call is written with a confidence below the threshold.
    confidence = rounded(curve.confidence(by_depth.probabilities, depths))  # (n_cells, n_depths)
    confidence[by_depth.terms < 0] = 0
    deepest = np.where(confidence >= np.float32(threshold), depths, -1).max(axis=1)  # (n_cells,)
    is_known = deepest >= 0
    called = np.where(is_known, deepest, confidence.argmax(axis=1))
    cells = np.arange(len(called))
    leaf_depths = by_depth.tree.depths[by_depth.leaf_terms]
    return Calls(
        terms=np.where(is_known, by_depth.terms[cells, called], -1).astype(np.int32),
        confidence=confidence[cells, called],
        leaf_confidence=rounded(curve.confidence(by_depth.leaf_probabilities, leaf_depths)),
    )
