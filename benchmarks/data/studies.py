"""Labelled studies for evaluation, and their label spaces."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from langcell.counts.obs_columns import read_obs_column
from langcell.counts.scale import Scale
from ontology.candidates import all_cell_types
from ontology.graph import Ontology
from ontology.tissues import TissueMap

SPACES = ("own", "tissue", "all")
# The manifest names linear values by their unit.
SCALES = {"TPM/CPM": "linear", "other": "ranks"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledFile:
    """One file of a study; only cells with a Cell Ontology id are scored.

    Attributes
    ----------
    name, study
        Names of the file and its study; files of a study are averaged.
    path, scale
        Path of the file and scale of its values.
    tissues
        Distinct UBERON ids of its cells.
    is_labelled
        True where the row has a term id, shape (n_rows,). Doublets, unknown cells and cell lines
        have none.
    truth_ids
        Term id of each labelled cell, object, shape (n_cells,).
    """

    name: str
    study: str
    path: Path
    scale: Scale
    tissues: tuple[str, ...]
    is_labelled: np.ndarray
    truth_ids: np.ndarray

    @property
    def n_cells(self) -> int:
        """Number of labelled cells."""
        return len(self.truth_ids)


def shared_folder() -> Path:
    """Return the folder of corpus/: LANGCELL_SHARED, or ../shared."""
    return Path(os.environ.get("LANGCELL_SHARED", "../shared"))


def read_validation_files(corpus: Path) -> list[LabelledFile]:
    """Read the labels of all validation files in the manifest of a corpus.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    """
    manifest = corpus / "manifest.tsv"
    if not manifest.is_file():
        raise FileNotFoundError(
            f"no corpus in {corpus.parent}: {manifest} is missing; name its folder with --shared"
        )
    rows = pd.read_csv(manifest, sep="\t").query("role == 'validation'")
    return [
        read_labelled_file(
            corpus / "validation" / "cells" / f"{row.name}.h5ad",
            study=str(row.study),
            scale=cast(Scale, SCALES.get(str(row.scale), str(row.scale))),
        )
        for row in rows.itertuples(index=False, name="Row")
    ]


def read_labelled_file(path: Path, *, study: str, scale: Scale) -> LabelledFile:
    """Read the labels and tissues of one file."""
    term_ids = read_obs_column(path, "cell_type_ontology_term_id")
    is_labelled = term_ids != ""
    tissues = read_obs_column(path, "tissue_ontology_term_id")[is_labelled]
    return LabelledFile(
        name=path.stem,
        study=study,
        path=path,
        scale=scale,
        tissues=tuple(sorted(set(tissues) - {""})),
        is_labelled=is_labelled,
        truth_ids=term_ids[is_labelled],
    )


def label_spaces(
    file: LabelledFile, ontology: Ontology, tissues: TissueMap
) -> dict[str, tuple[str, ...]]:
    """Return the candidate term ids of each label space, sorted.

    `own` are the distinct ids of the study. `tissue` are the cell types of its tissues by the
    ontology, which may lack types of the study. `all` are all cell types, also used as `tissue` if a
    file names no tissue.
    """
    everything = all_cell_types(ontology)
    plausible = {each for name in file.tissues for each in tissues.plausible_cell_types(name)}
    return {
        "own": tuple(sorted(set(file.truth_ids))),
        "tissue": tuple(sorted(plausible)) or everything,
        "all": everything,
    }
