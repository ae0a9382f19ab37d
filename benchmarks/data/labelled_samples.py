"""Further labelled files: samples of the validation studies, and a user's own files."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np

from benchmarks.data.studies import LabelledFile
from langcell.counts.obs_columns import obs_columns, read_obs_column
from langcell.counts.scale import Scale
from langcell.runtime.digest import sha256_of
from langcell.runtime.output_file import replaced_file
from ontology.graph import Ontology
from zeroshot.labels.agreement import named_truth

_GROUPS = ("donor", "donor_id", "condition")
_TISSUE = "tissue_ontology_term_id"


def sample_file(file: LabelledFile, n_cells: int, folder: Path, *, seed: int = 0) -> LabelledFile:
    """Write a copy of a file with some of its labelled cells, at least three of each type."""
    if file.n_cells <= n_cells:
        return file
    rows = np.flatnonzero(file.is_labelled)
    order = np.random.default_rng(seed).permutation(file.n_cells)
    rank = np.zeros(file.n_cells, dtype=np.int64)
    for term_id in np.unique(file.truth_ids.astype(str)):
        members = order[file.truth_ids[order] == term_id]
        rank[members] = np.arange(len(members))
    first = rank[order] < 3
    chosen = np.sort(np.concatenate([order[first], order[~first]])[:n_cells])
    path = folder / f"{file.name}-{n_cells}-{sha256_of(file.path)[:8]}.h5ad"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary:
            anndata.read_h5ad(file.path)[rows[chosen]].write_h5ad(temporary)
    return replace(
        file,
        path=path,
        is_labelled=np.ones(len(chosen), dtype=bool),
        truth_ids=file.truth_ids[chosen],
    )


def read_own_file(path: Path, label_key: str, scale: Scale, ontology: Ontology) -> LabelledFile:
    """Read a user's file; labels are names, synonyms or ids in an obs column.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file or column is missing, or there are fewer than two cell types.
    """
    truth = named_truth(read_obs_column(path, label_key), label_key, ontology)
    is_labelled = truth.term_ids != ""
    if len(set(truth.term_ids[is_labelled])) < 2:
        raise ValueError(
            f"{path}: obs[{label_key!r}] names only one cell type, at least two are needed"
        )
    tissues = read_obs_column(path, _TISSUE) if _TISSUE in obs_columns(path) else np.array([])
    known = Ontology.bundled("UBERON").index
    return LabelledFile(
        name=path.stem,
        study=path.stem,
        path=path,
        scale=scale,
        tissues=tuple(sorted(set(tissues) & set(known))),
        is_labelled=is_labelled,
        truth_ids=truth.term_ids[is_labelled],
    )


def donor_column(path: Path) -> str | None:
    """Return the first column of donors or conditions with at least two values."""
    for column in _GROUPS:
        if column in obs_columns(path) and len(set(read_obs_column(path, column)) - {""}) > 1:
            return column
    return None
