"""Annotate the cells of a file or AnnData, one block of cells at a time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langcell.counts.reader import CountMatrix, open_counts
from langcell.model.embedder import Embedder, load_embedder
from langcell.runtime.parameter_names import option
from langcell.runtime.version import __version__
from langcell.tokens.tokenizer import Coverage, RankTokenizer
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer, Progress, annotate_pending
from zeroshot.annotation.official_scoring import FUSED, OFFICIAL
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.annotation.run_identity import annotation_job
from zeroshot.confidence.backoff import Calls, n_probable
from zeroshot.labels.candidates import CandidateSet, all_candidates, own_candidates
from zeroshot.labels.tissue_weights import weigh_by_tissue
from zeroshot.results.annotations import Annotations, Slots
from zeroshot.results.partial_results import (
    FolderResults,
    MemoryResults,
    PartialResults,
    open_results,
    partial_folder,
)
from zeroshot.results.records import RecordLayout
from zeroshot.results.writers import AnnotationWriter, check_annotation_output, open_writer

if TYPE_CHECKING:
    from anndata import AnnData

_SCORES = {
    FUSED: "probability among all candidates",
    OFFICIAL: "score of the LangCell paper among all candidates, which sums to one",
}
_PARAMETERS = ("allow_normalized", "confidence", "rerank", "rerank_weight", "scoring", "top_k")


def annotate_source(
    source: "AnnData | str | Path",
    *,
    model: "Embedder | str | Path",
    model_name: str,
    labels: Sequence[str] | None,
    out: Path | None,
    options: AnnotateOptions,
    progress: Progress | None,
) -> Annotations:
    """Annotate the cells of a file or an AnnData; `langcell.annotate` documents the parameters."""
    has_folder = isinstance(source, str | Path) and (out is not None or options.inplace)
    if options.is_distributed and not has_folder:
        raise ValueError(
            f"several devices need a file as source, and {option('out')} or "
            f"{option('inplace', True)}; they share a folder next to the output"
        )
    output = _Output(source, out, options)
    ontology = Ontology.bundled()
    candidates = add_tissue_weights(
        source, _candidates(labels, options, ontology), options, ontology
    )
    # The stack closes after the counts: in place, its writer writes to the same file.
    with ExitStack() as stack:
        with open_counts(
            source, layer=options.layer, allow_normalized=options.allow_normalized
        ) as matrix:
            output.check()
            if isinstance(model, str | Path):
                model_name = str(model)
                model = load_embedder(model, device=options.device, states=options.needs_states)
            coverage = RankTokenizer(model.genes, max_genes=model.config.max_genes).coverage(matrix)
            scorer = CellScorer(model, candidates, options)
            details = _details(scorer, model_name, matrix, coverage, ontology)
            return _annotate_matrix(matrix, coverage, scorer, output, stack, details, progress)


def _candidates(
    labels: Sequence[str] | None, options: AnnotateOptions, ontology: Ontology
) -> CandidateSet:
    if options.head is not None:
        return own_candidates(labels or options.head.keys, ontology)
    return all_candidates(ontology) if labels is None else own_candidates(labels, ontology)


@dataclass(frozen=True)
class _Output:
    """Target of the results: a file, or the source itself."""

    source: "AnnData | str | Path"
    target: Path | None
    options: AnnotateOptions

    @property
    def slots(self) -> Slots:
        return Slots(key=self.options.key_added)

    def check(self) -> None:
        check_annotation_output(
            self.source,
            self.target,
            self.slots,
            overwrite=self.options.overwrite,
            inplace=self.options.inplace,
        )


def _annotate_matrix(
    matrix: CountMatrix,
    coverage: Coverage,
    scorer: CellScorer,
    output: _Output,
    stack: ExitStack,
    details: dict[str, Any],
    progress: Progress | None,
) -> Annotations:
    """Annotate the pending cells and write all results; `stack` closes the opened resources."""
    started = time.monotonic()
    results = stack.enter_context(_open_results(output.source, output.target, matrix, scorer))
    output.check()  # again, under the lock: another run may have written the output meanwhile
    n_resumed = matrix.n_cells - sum(map(len, results.pending()))
    _compute(results, scorer, matrix, progress)
    writer = stack.enter_context(
        open_writer(
            output.source, matrix, output.target, output.slots, inplace=scorer.options.inplace
        )
    )
    annotations = Annotations(
        slots=output.slots,
        cell_names=matrix.obs_names,
        candidates=scorer.candidates,
        tree=scorer.tree,
        coverage=coverage,
        **_write_blocks(results, writer),
        seconds=time.monotonic() - started,
        n_resumed=n_resumed,
        details=details,
    )
    writer.finish(annotations)
    return annotations


def _compute(
    results: PartialResults, scorer: CellScorer, matrix: CountMatrix, progress: Progress | None
) -> None:
    """Annotate the pending cells, in this process or in several."""
    if not scorer.options.is_distributed:
        annotate_pending(results, scorer, matrix, progress)
        return
    # Imported here: Lightning takes seconds to import.
    from zeroshot.annotation.distributed import annotate_over_devices

    assert isinstance(results, FolderResults), "ensured by the options"
    annotate_over_devices(results, scorer, matrix, progress)


@contextmanager
def _open_results(
    source: "AnnData | str | Path", target: Path | None, matrix: CountMatrix, scorer: CellScorer
) -> Iterator[PartialResults]:
    """Open the partial results: in a folder next to the output file, else in memory."""
    is_file, inplace = isinstance(source, str | Path), scorer.options.inplace
    wants_arrays = target is None and (not is_file or inplace)
    wants_arrays |= target is not None and target.suffix == ".h5ad"
    layout = RecordLayout(
        candidate_ids=scorer.candidates.keys,
        n_kept=scorer.n_kept,
        width=scorer.model.config.embedding_dim if wants_arrays else 0,
        n_terms=len(scorer.tree.ids),
        n_probable=n_probable(scorer.tree) if wants_arrays else 0,
    )
    if not isinstance(source, str | Path) or (target is None and not inplace):
        yield MemoryResults(layout, matrix.n_cells)
        return
    output = target or Path(source)
    if scorer.options.is_distributed:
        from langcell.runtime.processes import is_first_process

        if not is_first_process():  # the first process creates and removes the folder
            yield FolderResults(partial_folder(output), layout, matrix.n_cells)
            return
    job = annotation_job(Path(source), matrix, scorer, width=layout.width)
    with open_results(output, job, layout, matrix.n_cells) as results:
        yield results


def add_tissue_weights(
    source: "AnnData | str | Path",
    candidates: CandidateSet,
    options: AnnotateOptions,
    ontology: Ontology,
) -> CandidateSet:
    """Return the candidates with their log-priors in the tissue of the options, if any."""
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


def _write_blocks(results: PartialResults, writer: AnnotationWriter) -> dict[str, Any]:
    """Pass each block to the writer; return the per-cell arrays of `Annotations`."""
    n_cells = results.n_cells
    best = np.empty(n_cells, dtype=np.int32)
    terms = np.empty(n_cells, dtype=np.int32)
    margin, confidence, leaf_confidence, ood = np.empty((4, n_cells), dtype=np.float32)
    for block in results.blocks():
        rows = slice(block.start, block.start + len(block.ood))
        best[rows], margin[rows] = block.scores.best, block.scores.margin
        terms[rows], ood[rows] = block.calls.terms, block.ood
        confidence[rows] = block.calls.confidence
        leaf_confidence[rows] = block.calls.leaf_confidence
        writer.add(block)
    calls = Calls(terms=terms, confidence=confidence, leaf_confidence=leaf_confidence)
    return {"best": best, "margin": margin, "calls": calls, "ood": ood}


def _details(
    scorer: CellScorer, name: str, matrix: CountMatrix, coverage: Coverage, ontology: Ontology
) -> dict[str, Any]:
    """Return the record for uns: everything needed to judge or reproduce the calls."""
    model, candidates, options = scorer.model, scorer.candidates, scorer.options
    return {
        "version": __version__,
        "source": matrix.label,
        **({"command": options.command} if options.command else {}),
        "model": name,
        "model_sha256": scorer.model_sha256,
        "ontology_release": ontology.release,
        "candidates": candidates.described,
        "candidate_ids": np.array(candidates.keys, dtype=object),
        "candidate_names": np.array(candidates.names, dtype=object),
        "term_ids": np.array(scorer.tree.keys, dtype=object),
        "counts_source": matrix.source,
        "counts_transform": matrix.transform,
        "gene_coverage": {
            key: value
            for key, value in asdict(coverage).items()
            if isinstance(value, int | float | str)
        },
        **(
            {"tissue": {"given": options.tissue, **candidates.tissue.details()}}
            if candidates.tissue
            else {}
        ),
        **({"head": options.head.notes()} if options.head is not None else {}),
        "scores": f"{_SCORES[options.scoring]}; the best of each cell are stored",
        "terms": "probability of a term with all below it, before calibration; the best of each "
        "depth are stored",
        "ood": "distance to the nearest training cell: 0 is the median of training cells, 1 their 99th percentile"
        if options.head is None
        else "distance to the nearest label of the head: 0 is the median of its cells, 1 their 99th "
        "percentile",
        "calibration": {
            "id": scorer.calibration.identifier,
            "fitted_on": ", ".join(scorer.calibration.fitted_on),
            "learnt_for": scorer.learnt_for,
            **asdict(scorer.curve),
            **_reliability(scorer),
        },
        "parameters": {
            "logit_scale": model.scale.item(),
            **{key: getattr(options, key) for key in _PARAMETERS},
            **({"alpha": options.similarity_weight} if options.scoring == OFFICIAL else {}),
        },
    }


def _reliability(scorer: CellScorer) -> dict[str, Any]:
    """Return the measured reliability of the confidence as columns for uns, if any."""
    measured = scorer.calibration.reliability(is_choice=scorer.candidates.is_choice)
    if measured is None:
        return {}
    values = asdict(measured).items()
    columns = {key: np.array(each) if isinstance(each, tuple) else each for key, each in values}
    return {"reliability": columns}
