"""Correct labels of the validation studies that contradict the data or the ontology.

Calibration learns how often a call is wrong. With a wrong label a correct call would count as an
error, so these few labels are corrected; scores on the published labels are reported too.
"""

from dataclasses import replace

import numpy as np

from benchmarks.data.studies import LabelledFile
from langcell.counts.reader import open_counts
from zeroshot.confidence.backoff import TermsByDepth
from zeroshot.fit.fit_calibration import LabelledTerms

# Cells labelled T cell or mast cell in the prostate study that express no marker of the label, and
# for T cells a myeloid marker.
_STUDY = "Chen 2021 prostate"
_MARKERS = {
    "CL:0000084": ("CD3D CD3E CD3G CD247 CD2 TRAC TRBC1 TRBC2 CD7 IL7R", "LYZ CD68 CD14 AIF1 TYROBP FCER1G"),
    "CL:0000097": ("KIT TPSAB1 TPSB2 CPA3 MS4A2 HPGDS", ""),
}  # fmt: skip
# CL derives the glioblast from neuroectoderm, but its only parent is progenitor cell: neural cell
# counts as correct.
_ALSO_TRUE = {"CL:0000030": "CL:0002319"}


def contradicted(file: LabelledFile) -> np.ndarray:
    """Return which labelled cells have genes that contradict the label, shape (n_cells,)."""
    if file.study != _STUDY:
        return np.zeros(file.n_cells, dtype=bool)
    wanted = {gene for pair in _MARKERS.values() for genes in pair for gene in genes.split()}
    with open_counts(file.path, scale=file.scale) as matrix:
        names = matrix.gene_names.astype(str)
        columns = {gene: np.flatnonzero(names == gene) for gene in wanted}
        blocks = [
            {gene: np.asarray(block.counts[:, at].sum(axis=1)).ravel() > 0 for gene, at in columns.items()}
            for block in matrix.blocks()
        ]  # fmt: skip
    has = {
        gene: np.concatenate([each[gene] for each in blocks])[file.is_labelled] for gene in wanted
    }
    is_wrong = np.zeros(file.n_cells, dtype=bool)
    for label, (own, other) in _MARKERS.items():
        silent = ~np.any([has[gene] for gene in own.split()], axis=0)
        if other:
            silent &= np.any([has[gene] for gene in other.split()], axis=0)
        is_wrong |= (file.truth_ids == label) & silent
    return is_wrong


def amend(
    labelled: LabelledTerms, by_depth: TermsByDepth, file: LabelledFile, wrong: np.ndarray
) -> LabelledTerms:
    """Drop contradicted cells, and count as correct the relations that CL lacks.

    Parameters
    ----------
    labelled: of all labelled cells of the file, against the labels as published
    by_depth: what they were made from
    wrong: from `contradicted`
    """
    is_right = labelled.is_right.copy()
    for label, also in _ALSO_TRUE.items():
        rows = [row for row, term_id in enumerate(by_depth.tree.ids) if term_id == also]
        is_right |= (file.truth_ids == label)[:, None] & np.isin(by_depth.terms, rows)
    return replace(
        labelled, probabilities=labelled.probabilities[~wrong], is_right=is_right[~wrong]
    )
