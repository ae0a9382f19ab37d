"""Fixed-size records of annotated cells, for the folder of an unfinished run."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zeroshot.confidence.backoff import Calls, ProbableTerms
from zeroshot.results.annotations import AnnotationBlock
from zeroshot.scores.scores import Scores


@dataclass(frozen=True, kw_only=True)
class RecordLayout:
    """Layout of the fixed-size record of an annotated cell.

    Attributes
    ----------
    candidate_ids: identifiers that `Scores.candidates` indexes
    n_kept: number of candidate scores per cell
    width: dimension of the embedding; 0 if the output does not hold embeddings
    n_terms: number of terms for back-off
    n_probable: number of term probabilities per cell; 0 if the output does not hold them
    """

    candidate_ids: tuple[str, ...]
    n_kept: int
    width: int
    n_terms: int
    n_probable: int

    @cached_property
    def dtype(self) -> np.dtype:
        """Structured dtype of a record."""
        return np.dtype(
            [
                ("features", "<f4", (self.width,)),
                ("candidates", "<i4", (self.n_kept,)),
                ("log_probabilities", "<f4", (self.n_kept,)),
                ("probable_terms", "<i4", (self.n_probable,)),
                ("term_probabilities", "<f4", (self.n_probable,)),
                ("term", "<i4"),
                ("confidence", "<f4"),
                ("leaf_confidence", "<f4"),
                ("ood", "<f4"),
            ]
        )

    def pack(self, block: AnnotationBlock) -> np.ndarray:
        """Convert a block to records, one per cell."""
        records = np.empty(len(block.ood), self.dtype)
        records["features"] = block.features[:, : self.width]
        records["candidates"] = block.scores.candidates
        records["log_probabilities"] = block.scores.log_probabilities
        records["probable_terms"] = block.probable_terms.terms[:, : self.n_probable]
        records["term_probabilities"] = block.probable_terms.probabilities[:, : self.n_probable]
        records["term"], records["confidence"] = block.calls.terms, block.calls.confidence
        records["leaf_confidence"], records["ood"] = block.calls.leaf_confidence, block.ood
        return records

    def unpack(self, start: int, records: np.ndarray) -> AnnotationBlock:
        """Convert records back to a block; features have the width of the layout."""
        return AnnotationBlock(
            start=start,
            features=records["features"],
            scores=Scores(
                candidate_ids=self.candidate_ids,
                candidates=records["candidates"],
                log_probabilities=records["log_probabilities"],
            ),
            calls=Calls(
                terms=records["term"],
                confidence=records["confidence"],
                leaf_confidence=records["leaf_confidence"],
            ),
            probable_terms=ProbableTerms(
                terms=records["probable_terms"],
                probabilities=records["term_probabilities"],
                n_terms=self.n_terms,
            ),
            ood=records["ood"],
        )
