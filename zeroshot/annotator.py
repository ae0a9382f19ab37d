"""From counts to named cells, one block of cells at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.counts import CountMatrix, open_counts
from langcell.embed import CellEmbeddings, embed_cells
from langcell.embedder import Embedder, load_embedder
from langcell.tokenizer import Coverage, RankTokenizer
from langcell.version import __version__
from ontology.graph import Ontology
from zeroshot.annotations import AnnotationBlock, Annotations, Slots
from zeroshot.backoff import Calls, TermTree, back_off, make_ladder
from zeroshot.calibration import Calibration, model_calibration
from zeroshot.candidates import (
    CandidateSet,
    all_candidates,
    candidate_features,
    candidate_offsets,
    own_candidates,
)
from zeroshot.index import LabelIndex
from zeroshot.ood import OutlierScore
from zeroshot.scores import RETRIEVED, Scores, best_scores
from zeroshot.tissue import MODES, weigh_by_tissue
from zeroshot.writers import AnnotationWriter, check_annotation_output, open_writer

if TYPE_CHECKING:
    from anndata import AnnData

Progress = Callable[[int, int], None]  # cells done so far, and all cells


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions:
    """How to annotate."""

    layer: str | None = None  # of the counts; found without
    allow_normalized: bool = False  # accept values that look like log1p or CPM
    device: str = "cpu"  # of a model that is given by name
    batch_size: int | None = None  # chosen for the device by default
    top_k: int = 10  # candidates a cell whose scores are kept
    rerank: int = 0  # candidates a cell that the matching head looks at; 0 leaves it out
    rerank_weight: float = 1.0  # of the head's opinion beside the similarity
    confidence: float = 0.9  # least calibrated probability of a call; below it the call backs off
    calibration: Calibration | None = None  # in place of the model's own
    key_added: str = "langcell"  # what the names of all results begin with
    overwrite: bool = False  # replace an output or results that are there already
    inplace: bool = False  # add the results to the input h5ad itself
    tissue: str | None = None  # UBERON name or id of the cells, or "auto" for those in obs
    tissue_mode: str = "weigh"  # candidates by the tissue, or "restrict" them to it
    tissue_obo: str | Path | None = None  # release whose relations say where a type belongs

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.rerank == 1 or self.rerank < 0:
            raise ValueError(f"rerank must be 0 (off) or at least 2 candidates, got {self.rerank}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.tissue_mode not in MODES:
            raise ValueError(f"tissue_mode must be {' or '.join(MODES)}, got {self.tissue_mode!r}")
        if self.tissue is None and (self.tissue_mode != MODES[0] or self.tissue_obo):
            raise ValueError("tissue_mode and tissue_obo need a tissue: --tissue NAME, or auto")


def annotate(
    source: "AnnData | str | Path",
    *,
    model: "Embedder | str | Path" = "mini-fast",
    labels: Sequence[str] | None = None,
    out: str | Path | None = None,
    options: AnnotateOptions | None = None,
    progress: Progress | None = None,
) -> Annotations:
    """Name the cells of a file, or of an AnnData in memory.

    A cell's call does not depend on which other cells are there. Peak memory does not depend on
    the number of cells when `source` is a file.

    Parameters
    ----------
    source: .h5ad, .zarr, 10x .h5, 10x folder, or AnnData; an AnnData gets the results written to it
    model: a model, or the name, folder or hub id of one
    labels: candidates as in `zeroshot.candidates.own_candidates`; all cell types by default
    out: file to write, .h5ad, .csv or .parquet; nothing is written without
    options: how to annotate
    progress: called after each block with the number of cells done so far and of all cells

    Raises
    ------
    ValueError, OSError
        With one line that says what is wrong with the input, labels, model or output; then no
        output is left behind.
    """
    options = options or AnnotateOptions()
    slots, target = Slots(key=options.key_added), None if out is None else Path(out)
    ontology = Ontology.bundled()
    candidates = own_candidates(labels, ontology) if labels else all_candidates(ontology)
    candidates = with_tissue(source, candidates, options, ontology)
    with ExitStack() as written:  # left after the counts are closed: --inplace writes to that file
        with open_counts(
            source, layer=options.layer, allow_normalized=options.allow_normalized
        ) as matrix:
            check_annotation_output(
                source, target, slots, overwrite=options.overwrite, inplace=options.inplace
            )
            name = str(model) if isinstance(model, str | Path) else "in memory"
            if isinstance(model, str | Path):
                model = load_embedder(model, device=options.device, states=options.rerank > 0)
            tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes)
            coverage = tokenizer.coverage(matrix)
            writer = written.enter_context(
                open_writer(source, matrix, target, slots, inplace=options.inplace)
            )
            started = time.monotonic()
            scorer = CellScorer(model, candidates, options)
            blocks = annotate_blocks(scorer, matrix, check_coverage=False)
            annotations = Annotations(
                slots=slots,
                cell_names=matrix.obs_names,
                candidates=candidates,
                tree=scorer.tree,
                coverage=coverage,
                **_stream(blocks, matrix.n_cells, writer, progress),
                seconds=time.monotonic() - started,
                details=_details(scorer, name, matrix, coverage, ontology),
            )
            writer.finish(annotations)
    return annotations


def with_tissue(
    source: "AnnData | str | Path",
    candidates: CandidateSet,
    options: AnnotateOptions,
    ontology: Ontology,
) -> CandidateSet:
    """Return candidates that know what the tissue of the cells says about them, if one is given."""
    if options.tissue is None:
        return candidates
    weights = weigh_by_tissue(
        source,
        options.tissue,
        mode=options.tissue_mode,
        term_ids=candidates.ids,
        keys=candidates.keys,
        ontology=ontology,
        obo=options.tissue_obo,
    )
    return replace(candidates, tissue=weights)


def _stream(
    blocks: Iterator[AnnotationBlock],
    n_cells: int,
    writer: AnnotationWriter,
    progress: Progress | None,
) -> dict[str, Any]:
    """Hand each block to the writer; keep what `Annotations` says of each cell."""
    best = np.empty(n_cells, dtype=np.int32)
    terms = np.empty(n_cells, dtype=np.int32)
    margin, confidence, leaf_confidence, ood = np.empty((4, n_cells), dtype=np.float32)
    for block in blocks:
        rows = slice(block.start, block.start + len(block.features))
        best[rows], margin[rows] = block.scores.best, block.scores.margin
        terms[rows], ood[rows] = block.calls.terms, block.ood
        confidence[rows] = block.calls.confidence
        leaf_confidence[rows] = block.calls.leaf_confidence
        writer.add(block)
        if progress is not None:
            progress(rows.stop, n_cells)
    calls = Calls(terms=terms, confidence=confidence, leaf_confidence=leaf_confidence)
    return {"best": best, "margin": margin, "calls": calls, "ood": ood}


def annotate_blocks(
    scorer: "CellScorer", matrix: CountMatrix, *, check_coverage: bool = True
) -> Iterator[AnnotationBlock]:
    """Embed and score cells, block by block, in the order of the matrix."""
    for cells in embed_cells(
        scorer.model,
        matrix,
        batch_size=scorer.options.batch_size,
        states=scorer.needs_states,
        check_coverage=check_coverage,
    ):
        yield scorer.annotate(cells)


class CellScorer:
    """Scores embedded cells against candidates and calls them.

    Retrieval first, then reranking where it is wanted, then back-off.

    Parameters
    ----------
    model: that embedded the cells
    candidates: the labels to choose from
    options: `top_k`, `rerank`, `rerank_weight`, `confidence` and `calibration` are read
    """

    def __init__(self, model: Embedder, candidates: CandidateSet, options: AnnotateOptions) -> None:
        self.model = model
        self.candidates = candidates
        self.options = options
        self.calibration = options.calibration or model_calibration(model.calibration, model.sha256)
        self.regime = self.calibration.regime(is_choice=candidates.is_choice)
        features = candidate_features(candidates, model)
        offsets = candidate_offsets(candidates, features, model)
        self._index = LabelIndex(features, candidates.keys, offsets)
        self._scale = model.scale.item()
        self._top_k = max(options.top_k, options.rerank)
        self._reranker = None
        if options.rerank:
            # With torch, which nothing else here needs.
            from langcell.model import LangCell
            from zeroshot.rerank import Reranker

            assert isinstance(model, LangCell), "load_embedder(states=True) brings one"
            k = min(options.rerank, len(candidates))
            self._reranker = Reranker(model, candidates.texts, k=k, weight=options.rerank_weight)

    @cached_property
    def tree(self) -> TermTree:
        """Terms that cells may be called after back-off."""
        return TermTree.of(self.candidates, Ontology.bundled())

    @cached_property
    def _outlier_score(self) -> OutlierScore | None:
        return OutlierScore(self.model.reference) if self.model.reference is not None else None

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
        tissue, subtypes = self.candidates.tissue, self.candidates.subtypes
        if tissue is not None:
            everything = tissue.weigh(everything, cells.start)
        if subtypes is not None:
            everything = subtypes.pass_down(everything)
        scores = best_scores(
            cells.features,
            self._index,
            everything,
            top_k=self._top_k,
            # Of the nearest many may not be of the tissue.
            retrieved=RETRIEVED if tissue is None else 8 * RETRIEVED,
        )
        if self._reranker is None:
            return scores, everything
        if cells.cells is None:
            raise ValueError("reranking needs cell states: embed_cells(..., states=True)")
        scores = self._reranker.rerank(scores, cells.cells)
        np.put_along_axis(everything, scores.candidates, scores.log_probabilities, axis=1)
        return scores, everything

    def annotate(self, cells: CellEmbeddings) -> AnnotationBlock:
        """Score and call a block of cells."""
        scores, everything = self.score_all(cells)
        ladder = make_ladder(
            everything, self.tree, scores.best, temperature=self.regime.temperature
        )
        ood = np.full(len(cells.features), np.nan, dtype=np.float32)
        return AnnotationBlock(
            start=cells.start,
            features=cells.features,
            scores=scores,
            calls=back_off(ladder, self.regime, level=self.options.confidence),
            ood=self._outlier_score(cells.features) if self._outlier_score else ood,
        )


def _details(
    scorer: CellScorer, name: str, matrix: CountMatrix, coverage: Coverage, ontology: Ontology
) -> dict[str, Any]:
    """Collect what a reader of the file must know to judge or repeat the calls."""
    model, candidates, options = scorer.model, scorer.candidates, scorer.options
    return {
        "version": __version__,
        "source": matrix.label,
        "model": name,
        "model_sha256": model.sha256,
        "ontology_release": ontology.release,
        "candidates": candidates.described,
        "candidate_ids": np.array(candidates.keys, dtype=object),
        "candidate_names": np.array(candidates.names, dtype=object),
        "counts_source": matrix.source,
        "counts_transform": matrix.transform,
        "gene_coverage": {
            key: value
            for key, value in asdict(coverage).items()
            if isinstance(value, int | float | str)
        },
        **({"tissue": candidates.tissue.details()} if candidates.tissue else {}),
        "scores": "probability among all candidates; the best of each cell are stored",
        "calibration": {
            "id": scorer.calibration.identifier,
            "fitted_on": ", ".join(scorer.calibration.fitted_on),
            **asdict(scorer.regime),
        },
        "parameters": {
            "logit_scale": model.scale.item(),
            **{
                key: getattr(options, key)
                for key in ("allow_normalized", "confidence", "rerank", "rerank_weight", "top_k")
            },
        },
    }
