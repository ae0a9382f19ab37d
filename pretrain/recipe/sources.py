"""The files that a recipe names, and their labelled rows."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd

from ontology.graph import Ontology
from pretrain.recipe.cell_config import Columns, Scale
from pretrain.recipe.config import Recipe

ASPECT_COLUMNS = ("tissue", "disease", "stage")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the training split and what the recipe says about it."""

    path: Path
    is_profile: bool
    scale: Scale

    @property
    def name(self) -> str:
        """File name without its ending."""
        return self.path.stem


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows:
    """The rows of a file that bear a usable term.

    Attributes
    ----------
    rows
        Row numbers, shape (n,).
    term_ids
        Live term of each, object, shape (n,).
    studies
        Study of each, object, shape (n,).
    aspects
        Further aspects of each, (tissue, disease, stage), '' where unknown.
    n_rows, n_replaced
        Rows of the file; rows whose obsolete id was replaced.
    unknown
        Ids that the ontology does not have, or that are obsolete without a replacement.
    """

    rows: np.ndarray
    term_ids: np.ndarray
    studies: np.ndarray
    aspects: list[tuple[str, str, str]]
    n_rows: int
    n_replaced: int
    unknown: tuple[str, ...]


def find_sources(recipe: Recipe) -> list[SourceFile]:
    """Return the files of the recipe, in its order.

    Raises
    ------
    FileNotFoundError
        If the corpus folder is missing or a path or glob matches no file.
    ValueError
        If `corpus_root` is not set, or one file is named twice.
    """
    if not recipe.corpus_root:
        raise ValueError("the recipe needs the folder of the corpus: add corpus_root=FOLDER")
    if not recipe.root.is_dir():
        raise FileNotFoundError(f"corpus_root {recipe.root} is not a folder")
    found: dict[Path, SourceFile] = {}
    for source in recipe.sources:
        for pattern in source.files:
            paths = _matching(recipe.root, pattern)
            if not paths:
                raise FileNotFoundError(f"no file matches {pattern} in {recipe.root}")
            for path in paths:
                if path in found:
                    raise ValueError(f"the recipe names {path.name} twice (again as {pattern})")
                found[path] = SourceFile(
                    path=path, is_profile=source.kind == "profiles", scale=source.scale
                )
    return list(found.values())


def _matching(root: Path, pattern: str) -> list[Path]:
    """Files that a pattern names, sorted; an absolute one stands for itself."""
    if Path(pattern).is_absolute():
        return sorted(Path(found) for found in glob(pattern))
    return sorted(root.glob(pattern))


def read_obs(path: Path) -> pd.DataFrame:
    """Read the obs table of an h5ad alone; errors name the file."""
    try:
        with h5py.File(path) as file:
            return anndata.io.read_elem(file["obs"])
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a readable h5ad file: {error}") from error


def label_rows(
    path: Path, columns: Columns, ontology: Ontology, *, without: Set[str] = frozenset()
) -> LabelledRows:
    """Return the rows of a file that carry a term of the ontology.

    Rows with an empty id are skipped: the authors gave no type. Obsolete ids are replaced where
    the ontology says by what. Rows of the types in `without` are skipped too.

    Raises
    ------
    ValueError
        If the file cannot be read or lacks the column of term ids.
    """
    obs = read_obs(path)
    if columns.term_id not in obs:
        raise ValueError(
            f"{path} has no obs column {columns.term_id!r} (columns.term_id); "
            f"it has {', '.join(obs.columns)}"
        )
    given = _strings(obs, columns.term_id)
    current: Mapping[str, str] = {
        term_id: ontology.current(term_id) or "" for term_id in sorted(set(given) - {""})
    }
    terms = np.array([current.get(term_id, "") for term_id in given], dtype=object)
    rows = np.flatnonzero([term_id != "" and term_id not in without for term_id in terms])
    studies = _strings(obs, columns.study)
    studies[studies == ""] = path.stem
    further = [_strings(obs, getattr(columns, name)) for name in ASPECT_COLUMNS]
    return LabelledRows(
        rows=rows,
        term_ids=terms[rows],
        studies=studies[rows],
        aspects=[(further[0][row], further[1][row], further[2][row]) for row in rows],
        n_rows=len(obs),
        n_replaced=int(np.count_nonzero(terms[rows] != given[rows])),
        unknown=tuple(term_id for term_id, live in current.items() if not live),
    )


def _strings(obs: pd.DataFrame, column: str) -> np.ndarray:
    """One column as strings, '' where it is missing or has no value."""
    if column not in obs:
        return np.full(len(obs), "", dtype=object)
    values = obs[column].astype(object)
    return np.array(
        ["" if pd.isna(value) else str(value).strip() for value in values], dtype=object
    )
