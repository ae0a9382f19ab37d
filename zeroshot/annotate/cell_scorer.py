"""How likely each candidate is for each cell, and what the cell is called."""

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

Progress = Callable[[int, int], None]  # cells done so far, and all cells


class CellScorer:
    """Scores embedded cells against candidates and calls them.

    Retrieval first, then reranking where it is wanted, then back-off; or the scores of the paper
    (`zeroshot.annotate.official_scoring`), then back-off.

    Parameters
    ----------
    model: that embedded the cells
    candidates: the labels to choose from
    options: `top_k`, `rerank`, `rerank_weight`, `scoring`, `alpha`, `confidence` and `calibration`
        are read
    """

    def __init__(self, model: Embedder, candidates: CandidateSet, options: AnnotateOptions) -> None:
        self.model_sha256 = model.sha256  # of the weights on disk, which a head may change
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
            # With torch, which nothing else here needs.
            from langcell.model.langcell import LangCell
            from zeroshot.annotate.rerank import Reranker

            assert isinstance(model, LangCell), "load_embedder(states=True) brings one"
            k = min(options.rerank or len(candidates), len(candidates))
            self._reranker = Reranker(model, candidates.texts, k=k, weight=options.rerank_weight)

    def _candidate_features(self) -> np.ndarray:
        """Embed the candidates, unless a head gives what their texts say no weight."""
        if self._head is not None and not self._head.text_weight:
            shape = (len(self.candidates), self.model.config.embedding_dim)
            return np.zeros(shape, dtype=np.float32)
        return candidate_features(self.candidates, self.model)

    def _choose_calibration(self) -> Calibration:
        if self._is_official:  # none was learnt for it
            return UNCALIBRATED
        if self.options.calibration is not None:
            return self.options.calibration
        if self._head is not None:
            return self._head.calibration
        return model_calibration(self.model.calibration, self.model.sha256)

    @property
    def learnt_for(self) -> str:
        """Whose probabilities the calibration was learnt for: "model", "head", or "given" by hand."""
        if self.options.calibration is not None:
            return "given"
        return "head" if self._head is not None and self._head.is_calibrated else "model"

    @cached_property
    def tree(self) -> TermTree:
        """Terms that cells may be called after back-off."""
        return TermTree.of(self.candidates, Ontology.bundled())

    @cached_property
    def _outlier_score(self) -> OutlierScore | Novelty | None:
        if self._head is not None:  # its labels are the question, not what the model was trained on
            # Features of a model that a head changes are in another space than its prototypes.
            return None if self._head.changes else self._head.novelty
        return OutlierScore(self.model.reference) if self.model.reference is not None else None

    @property
    def n_kept(self) -> int:
        """How many candidates of each cell `Scores` holds."""
        return min(self._top_k, len(self.candidates))

    @property
    def _retrieved(self) -> int:
        """How many of the nearest labels are looked at: a head may prefer any of its own."""
        if self._head is not None:
            return len(self.candidates)
        # Of the nearest many may not be of the tissue.
        return RETRIEVED if self.candidates.tissue is None else 8 * RETRIEVED

    @property
    def needs_states(self) -> bool:
        """Tell whether cells must come with their token states."""
        return self._reranker is not None

    def __call__(self, cells: CellEmbeddings) -> Scores:
        """Score a block of cells; with reranking they must have their states."""
        return self.score_all(cells)[0]

    def score_all(self, cells: CellEmbeddings) -> tuple[Scores, np.ndarray]:
        """Score a block of cells; return the best, and log-probabilities of all candidates too.

        This is the one place where similarities become log-probabilities: (n_cells, n_candidates),
        float32, those of reranked candidates as reranking left them.
        """
        everything = self._index.log_probabilities(cells.features, self._scale)
        if self._is_official:
            return self._officially(everything, cells)
        tissue, subtypes = self.candidates.tissue, self.candidates.subtypes
        if tissue is not None:
            everything = tissue.weigh(everything, cells.start)
        if subtypes is not None:
            everything = subtypes.pass_down(everything)
        if self._head is not None:
            if cells.tokens is None:
                raise ValueError("a head reads ranked genes: embed the cells with embed_cells")
            if self._head.matches:
                everything = everything + self._match_all(cells)
            everything = self._head.log_probabilities(everything, cells.features, cells.tokens)
        scores = best_scores(
            cells.features, self._index, everything, top_k=self._top_k, retrieved=self._retrieved
        )
        if self._reranker is None or self._head is not None:
            return scores, everything
        scores = self._reranker.rerank(scores, _with_states(cells))
        np.put_along_axis(everything, scores.candidates, scores.log_probabilities, axis=1)
        return scores, everything

    def _officially(
        self, by_similarity: np.ndarray, cells: CellEmbeddings
    ) -> tuple[Scores, np.ndarray]:
        """Score a block as the paper's code does; every candidate is matched with every cell."""
        matched = self._match_all(cells)
        alpha = self.options.similarity_weight
        everything = official_scores(by_similarity, matched, alpha=alpha).astype(np.float32)
        best = np.argsort(-everything, axis=1, kind="stable")[:, : self._top_k]
        scores = Scores(
            candidate_ids=self._index.ids,
            candidates=best.astype(np.int32),
            log_probabilities=np.take_along_axis(everything, best, axis=1),
        )
        return scores, everything

    def _match_all(self, cells: CellEmbeddings) -> np.ndarray:
        """Return the log-probability that each candidate describes each cell."""
        assert self._reranker is not None, "made where states are needed"
        labels = np.tile(np.arange(len(self.candidates)), (len(cells.features), 1))
        return self._reranker.match(labels, _with_states(cells))  # (n_cells, n_candidates)

    def annotate(self, cells: CellEmbeddings) -> AnnotationBlock:
        """Score and call a block of cells."""
        scores, everything = self.score_all(cells)
        by_depth = terms_by_depth(
            everything, self.tree, scores.best, temperature=self.curve.temperature
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
        raise ValueError("matching needs cell states: embed_cells(..., states=True)")
    return cells.cells


def annotate_blocks(scorer: CellScorer, matrix: CountMatrix) -> Iterator[AnnotationBlock]:
    """Embed, score and call all cells of a matrix, block by block in their order."""
    return annotate_range(scorer, matrix, range(matrix.n_cells), check_coverage=True)


def annotate_pending(
    results: PartialResults,
    scorer: CellScorer,
    matrix: CountMatrix,
    progress: Progress | None = None,
) -> None:
    """Annotate the cells that the results still lack; `progress` is called after each block."""
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
    """Embed, score and call consecutive cells, from a multiple of `BLOCK_CELLS` on."""
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
