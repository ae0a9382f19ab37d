"""Agreement of reranking the top k labels with exhaustive matching."""

from collections.abc import Sequence

import anndata
import numpy as np

from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from langcell.model.embed_cells import embed_cells
from langcell.model.langcell import LangCell
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from zeroshot.annotation.cell_scorer import CellScorer
from zeroshot.annotation.options import AnnotateOptions
from zeroshot.confidence.calibration import UNCALIBRATED
from zeroshot.labels.candidates import CandidateSet, own_candidates


def padded_candidates(
    own: Sequence[str], n_labels: int, ontology: Ontology, rng: np.random.Generator
) -> CandidateSet:
    """Return the types of a study, padded with random others to `n_labels`.

    >>> padded_candidates(["CL:0000236"], 3, Ontology.bundled(), np.random.default_rng(0)).ids[0]
    'CL:0000236'
    """
    others = [term_id for term_id in all_cell_types(ontology) if term_id not in set(own)]
    drawn = rng.choice(len(others), max(0, n_labels - len(own)), replace=False)
    return own_candidates([*own, *(others[place] for place in drawn)][:n_labels], ontology)


def agreement(
    model: LangCell,
    files: Sequence[LabelledFile],
    ks: Sequence[int],
    *,
    n_labels: int,
    n_cells: int,
    seed: int,
) -> dict[int, float]:
    """Return the share of cells with the best label of exhaustive matching, by k.

    Parameters
    ----------
    model: model with a trained matching head
    files: labelled studies
    ks: numbers of candidates to rerank
    n_labels: candidates per study, with its own types
    n_cells: cells to draw per file
    """
    ontology, rng = Ontology.bundled(), np.random.default_rng(seed)
    equal: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for file in files:
        own = sorted(set(file.truth_ids))
        candidates = padded_candidates(own, n_labels, ontology, rng)
        rows = np.flatnonzero(file.is_labelled)
        rows = np.sort(rng.choice(rows, min(n_cells, len(rows)), replace=False))
        cells = anndata.read_h5ad(file.path)[rows].copy()
        with open_counts(cells, scale=file.scale) as matrix:
            blocks = list(embed_cells(model, matrix, states=True))

        def best(k: int) -> np.ndarray:
            options = AnnotateOptions(rerank=k, calibration=UNCALIBRATED)
            scorer = CellScorer(model, candidates, options)  # noqa: B023  called at once
            return np.concatenate([scorer(block).best for block in blocks])  # noqa: B023

        exhaustive = best(len(candidates))
        for k in ks:
            equal[k].append(best(k) == exhaustive)
    return {k: float(np.concatenate(parts).mean()) for k, parts in equal.items()}
