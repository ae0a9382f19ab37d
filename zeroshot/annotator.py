"""From counts to named cells, one block of cells at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.counts import CountMatrix, open_counts
from langcell.embed import CellEmbeddings, embed_cells
from langcell.model import LangCell
from langcell.tokenizer import Coverage, RankTokenizer
from langcell.version import __version__
from ontology.graph import Ontology
from zeroshot.annotations import AnnotationBlock, Annotations, Slots
from zeroshot.candidates import (
    CandidateSet,
    all_candidates,
    candidate_features,
    candidate_offsets,
    own_candidates,
)
from zeroshot.index import LabelIndex
from zeroshot.rerank import Reranker
from zeroshot.scores import Scores, score_cells
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
    key_added: str = "langcell"  # what the names of all results begin with
    overwrite: bool = False  # replace an output or results that are there already
    inplace: bool = False  # add the results to the input h5ad itself

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.rerank == 1 or self.rerank < 0:
            raise ValueError(f"rerank must be 0 (off) or at least 2 candidates, got {self.rerank}")


def annotate(
    source: "AnnData | str | Path",
    *,
    model: LangCell | str | Path = "mini-fast",
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
    with ExitStack() as written:  # left after the counts are closed: --inplace writes to that file
        with open_counts(
            source, layer=options.layer, allow_normalized=options.allow_normalized
        ) as matrix:
            check_annotation_output(
                source, target, slots, overwrite=options.overwrite, inplace=options.inplace
            )
            name = "in memory" if isinstance(model, LangCell) else str(model)
            if not isinstance(model, LangCell):
                model = LangCell.from_pretrained(model, device=options.device)
            tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes)
            coverage = tokenizer.coverage(matrix)
            writer = written.enter_context(
                open_writer(source, matrix, target, slots, inplace=options.inplace)
            )
            started = time.monotonic()
            blocks = annotate_blocks(model, matrix, candidates, options, check_coverage=False)
            best, margin = _stream(blocks, matrix.n_cells, writer, progress)
            annotations = Annotations(
                slots=slots,
                cell_names=matrix.obs_names,
                candidates=candidates,
                best=best,
                margin=margin,
                coverage=coverage,
                seconds=time.monotonic() - started,
                details=_details(model, name, matrix, candidates, coverage, ontology, options),
            )
            writer.finish(annotations)
    return annotations


def _stream(
    blocks: Iterator[AnnotationBlock],
    n_cells: int,
    writer: AnnotationWriter,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hand each block to the writer; keep the best candidate and margin of each cell."""
    best = np.empty(n_cells, dtype=np.int32)
    margin = np.empty(n_cells, dtype=np.float32)
    for block in blocks:
        rows = slice(block.start, block.start + len(block.features))
        best[rows], margin[rows] = block.scores.best, block.scores.margin
        writer.add(block)
        if progress is not None:
            progress(rows.stop, n_cells)
    return best, margin


def annotate_blocks(
    model: LangCell,
    matrix: CountMatrix,
    candidates: CandidateSet,
    options: AnnotateOptions,
    *,
    check_coverage: bool = True,
) -> Iterator[AnnotationBlock]:
    """Embed and score cells, block by block, in the order of the matrix."""
    scorer = CellScorer(model, candidates, options)
    for cells in embed_cells(
        model,
        matrix,
        batch_size=options.batch_size,
        states=scorer.needs_states,
        check_coverage=check_coverage,
    ):
        yield AnnotationBlock(start=cells.start, features=cells.features, scores=scorer(cells))


class CellScorer:
    """Scores embedded cells against candidates: retrieval, then reranking where it is wanted.

    Parameters
    ----------
    model: that embedded the cells
    candidates: the labels to choose from
    options: `top_k`, `rerank` and `rerank_weight` are read
    """

    def __init__(self, model: LangCell, candidates: CandidateSet, options: AnnotateOptions) -> None:
        features = candidate_features(candidates, model)
        offsets = candidate_offsets(candidates, features, model)
        self._index = LabelIndex(features, candidates.keys, offsets)
        self._scale = model.scale.item()
        self._top_k = max(options.top_k, options.rerank)
        self._reranker = None
        if options.rerank:
            k = min(options.rerank, len(candidates))
            self._reranker = Reranker(model, candidates.texts, k=k, weight=options.rerank_weight)

    @property
    def needs_states(self) -> bool:
        """Tell whether cells must come with their token states."""
        return self._reranker is not None

    def __call__(self, cells: CellEmbeddings) -> Scores:
        """Score a block of cells; with reranking they must have their states."""
        scores = score_cells(cells.features, self._index, scale=self._scale, top_k=self._top_k)
        if self._reranker is None:
            return scores
        if cells.cells is None:
            raise ValueError("reranking needs cell states: embed_cells(..., states=True)")
        return self._reranker.rerank(scores, cells.cells)


def _details(
    model: LangCell,
    name: str,
    matrix: CountMatrix,
    candidates: CandidateSet,
    coverage: Coverage,
    ontology: Ontology,
    options: AnnotateOptions,
) -> dict[str, Any]:
    """Collect what a reader of the file must know to judge or repeat the calls."""
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
        "scores": "probability among all candidates; the best of each cell are stored",
        "parameters": {
            "logit_scale": model.scale.item(),
            **{
                key: getattr(options, key)
                for key in ("allow_normalized", "rerank", "rerank_weight", "top_k")
            },
        },
    }
