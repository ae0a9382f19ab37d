"""Score embedded cells against candidates and call them."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from langcell.counts.reader import CountMatrix
from langcell.model.embed_cells import CellEmbeddings, embed_cells
from langcell.model.embedder import Embedder
from ontology.graph import Ontology
from zeroshot.annotate.official_scoring import (
    OFFICIAL,
    TEMPERATURE,
    label_features,
    official_scores,
)
from zeroshot.annotate.options import AnnotateOptions
from zeroshot.confidence.backoff import back_off, terms_by_depth
from zeroshot.confidence.calibration import UNCALIBRATED, Calibration, model_calibration
from zeroshot.confidence.novelty import Novelty
from zeroshot.confidence.out_of_distribution import OutlierScore
from zeroshot.confidence.term_tree import TermTree
from zeroshot.labels.candidates import CandidateSet, candidate_features, candidate_offsets
from zeroshot.results.annotations import AnnotationBlock
from zeroshot.results.partial_results import PartialResults
from zeroshot.scores.label_index import LabelIndex
from zeroshot.scores.scores import RETRIEVED, Scores, best_scores

if TYPE_CHECKING:
    from langcell.nn.features import CellFeatures

Progress = Callable[[int, int], None]  # called with the number of annotated and of all cells


class CellScorer:
    """Scores embedded cells against candidates and calls them.

    Steps: retrieval, optional reranking, back-off. With `scoring="official"`, the scores of the
    paper (`zeroshot.annotate.official_scoring`) replace the first two.

    Parameters
    ----------
    model: model that embedded the cells
    candidates: candidate labels
    options: `top_k`, `rerank`, `rerank_weight`, `scoring`, `alpha`, `confidence`, `calibration` and
        `head` are read
    """

    def __init__(self, model: Embedder, candidates: CandidateSet, options: AnnotateOptions) -> None:
        self.model_sha256 = model.sha256  # of the stored weights; a head may change them
        if options.head is not None:
            options.head.check_fits(model, candidates)
            model = options.head.adapt(model)
        self.model = model
        self.candidates = candidates
        self.options = options
        self._head = options.head
        self._is_official = options.scoring == OFFICIAL
        self.calibration = self._choose_calibration()
        if self._is_official:
            self._index = LabelIndex(label_features(candidates, model), candidates.keys)
            self._scale = 1 / TEMPERATURE
        else:
            features = self._candidate_features()
            offsets = candidate_offsets(candidates, features, model)
            self._index = LabelIndex(features, candidates.keys, offsets)
            self._scale = model.scale.item()
        self.curve = self.calibration.curve(is_choice=candidates.is_choice)
        self._top_k = max(options.top_k, options.rerank)
        self._reranker = None
        if options.needs_states:
            # Imported here: nothing else in this module needs torch.
            from langcell.model.langcell import LangCell
            from zeroshot.annotate.rerank import Reranker

            assert isinstance(model, LangCell), "load_embedder(states=True) returns one"
            k = min(options.rerank or len(candidates), len(candidates))
            self._reranker = Reranker(model, candidates.texts, k=k, weight=options.rerank_weight)

    def _candidate_features(self) -> np.ndarray:
        """Embed the candidates, or return zeros if the head gives texts no weight."""
        if self._head is not None and not self._head.text_weight:
            shape = (len(self.candidates), self.model.config.embedding_dim)
            return np.zeros(shape, dtype=np.float32)
        return candidate_features(self.candidates, self.model)

    def _choose_calibration(self) -> Calibration:
        if self._is_official:  # no calibration was fitted for it
            return UNCALIBRATED
        if self.options.calibration is not None:
            return self.options.calibration
        if self._head is not None:
            return self._head.calibration
        return model_calibration(self.model.calibration, self.model.sha256)

    @property
    def learnt_for(self) -> str:
        """Origin of the calibration: fitted for the "model" or "head", or "given" by the user."""
        if self.options.calibration is not None:
            return "given"
        return "head" if self._head is not None and self._head.is_calibrated else "model"

    @cached_property
    def tree(self) -> TermTree:
        """Terms for back-off."""
        return TermTree.of(self.candidates, Ontology.bundled())

    @cached_property
    def _outlier_score(self) -> OutlierScore | Novelty | None:
        if self._head is not None:  # compare with the labelled cells, not with the training data
            # After weight changes, embeddings are in another space than the prototypes.
            return None if self._head.changes else self._head.novelty
        return OutlierScore(self.model.reference) if self.model.reference is not None else None

    @property
    def n_kept(self) -> int:
        """Number of candidates per cell in `Scores`."""
        return min(self._top_k, len(self.candidates))

    @property
    def _retrieved(self) -> int:
        """Number of nearest labels to choose from; all with a head, which may prefer any label."""
        if self._head is not None:
            return len(self.candidates)
        # More with a tissue, which may exclude many of the nearest.
        return RETRIEVED if self.candidates.tissue is None else 8 * RETRIEVED

    @property
    def needs_states(self) -> bool:
        """Whether cells need their token states."""
        return self._reranker is not None

    def __call__(self, cells: CellEmbeddings) -> Scores:
        """Score a block of cells; reranking needs their token states."""
        return self.score_all(cells)[0]

    def score_all(self, cells: CellEmbeddings) -> tuple[Scores, np.ndarray]:
        """Score a block of cells; return the best scores and log-probabilities of all candidates.

        The log-probabilities have shape (n_cells, n_candidates), float32, and include reranking.
        All similarities are converted to log-probabilities here.
        """
        log_probabilities = self._index.log_probabilities(cells.features, self._scale)
        if self._is_official:
            return self._score_official(log_probabilities, cells)
        tissue, subtypes = self.candidates.tissue, self.candidates.subtypes
        if tissue is not None:
            log_probabilities = tissue.weigh(log_probabilities, cells.start)
        if subtypes is not None:
            log_probabilities = subtypes.pass_down(log_probabilities)
        if self._head is not None:
            if cells.tokens is None:
                raise ValueError("a head needs ranked genes: embed the cells with embed_cells")
            if self._head.matches:
                log_probabilities = log_probabilities + self._match_all(cells)
            log_probabilities = self._head.log_probabilities(
                log_probabilities, cells.features, cells.tokens
            )
        scores = best_scores(
            cells.features,
            self._index,
            log_probabilities,
            top_k=self._top_k,
            retrieved=self._retrieved,
        )
        if self._reranker is None or self._head is not None:
            return scores, log_probabilities
        scores = self._reranker.rerank(scores, _with_states(cells))
        np.put_along_axis(log_probabilities, scores.candidates, scores.log_probabilities, axis=1)
        return scores, log_probabilities

    def _score_official(
        self, by_similarity: np.ndarray, cells: CellEmbeddings
    ) -> tuple[Scores, np.ndarray]:
        """Score a block as the code of the paper does: match every candidate with every cell."""
        matched = self._match_all(cells)
        alpha = self.options.similarity_weight
        combined = official_scores(by_similarity, matched, alpha=alpha).astype(np.float32)
        best = np.argsort(-combined, axis=1, kind="stable")[:, : self._top_k]
        scores = Scores(
            candidate_ids=self._index.ids,
            candidates=best.astype(np.int32),
            log_probabilities=np.take_along_axis(combined, best, axis=1),
        )
        return scores, combined

    def _match_all(self, cells: CellEmbeddings) -> np.ndarray:
        """Return the log-probability that each candidate describes each cell."""
        assert self._reranker is not None, "created if states are needed"
        labels = np.tile(np.arange(len(self.candidates)), (len(cells.features), 1))
        return self._reranker.match(labels, _with_states(cells))  # (n_cells, n_candidates)

    def annotate(self, cells: CellEmbeddings) -> AnnotationBlock:
        """Score and call a block of cells."""
        scores, log_probabilities = self.score_all(cells)
        by_depth = terms_by_depth(
            log_probabilities, self.tree, scores.best, temperature=self.curve.temperature
        )
        ood = np.full(len(cells.features), np.nan, dtype=np.float32)
        return AnnotationBlock(
            start=cells.start,
            features=cells.features,
            scores=scores,
            calls=back_off(by_depth, self.curve, threshold=self.options.confidence),
            probable_terms=by_depth.probable_terms,
            ood=self._outlier_score(cells.features) if self._outlier_score else ood,
        )


def _with_states(cells: CellEmbeddings) -> "CellFeatures":
    if cells.cells is None:
        raise ValueError("matching needs token states: use embed_cells(..., states=True)")
    return cells.cells


def annotate_blocks(scorer: CellScorer, matrix: CountMatrix) -> Iterator[AnnotationBlock]:
    """Embed, score and call all cells of a matrix; yield blocks in order."""
    return annotate_range(scorer, matrix, range(matrix.n_cells), check_coverage=True)


def annotate_pending(
    results: PartialResults,
    scorer: CellScorer,
    matrix: CountMatrix,
    progress: Progress | None = None,
) -> None:
    """Annotate the pending cells of the results; `progress` is called after each block."""
    pending = results.pending()
    n_done = matrix.n_cells - sum(map(len, pending))
    if progress is not None:
        progress(n_done, matrix.n_cells)
    for rows in pending:
        with results.appending(rows.start) as append:
            for block in annotate_range(scorer, matrix, rows):
                append(block)
                n_done += len(block.ood)
                if progress is not None:
                    progress(n_done, matrix.n_cells)


def annotate_range(
    scorer: CellScorer, matrix: CountMatrix, rows: range, *, check_coverage: bool = False
) -> Iterator[AnnotationBlock]:
    """Embed, score and call consecutive cells; `rows` starts at a multiple of `BLOCK_CELLS`."""
    for cells in embed_cells(
        scorer.model,
        matrix,
        batch_size=scorer.options.batch_size,
        states=scorer.needs_states,
        check_coverage=check_coverage,
        start=rows.start,
        stop=rows.stop,
    ):
        yield scorer.annotate(cells)
