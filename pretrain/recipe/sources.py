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
    """One training file with its kind and scale."""

    path: Path
    is_profile: bool
    scale: Scale

    @property
    def name(self) -> str:
        """File name without its extension."""
        return self.path.stem


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows:
    """The rows of a file with a usable term.

    Attributes
    ----------
    rows
        Row numbers, shape (n,).
    term_ids
        Current term of each, object, shape (n,).
    studies
        Study of each, object, shape (n,).
    aspects
        Further aspects of each, (tissue, disease, stage), '' where unknown.
    n_rows, n_replaced
        Number of rows of the file, and of rows whose obsolete id was replaced.
    unknown
        Ids that the ontology lacks, or that are obsolete without a replacement.
    """

    rows: np.ndarray
    term_ids: np.ndarray
    studies: np.ndarray
    aspects: list[tuple[str, str, str]]
    n_rows: int
    n_replaced: int
    unknown: tuple[str, ...]


def find_sources(recipe: Recipe) -> list[SourceFile]:
    """Return the files of the recipe, in order.

    Raises
    ------
    FileNotFoundError
        If the corpus folder is missing or a path or glob matches no file.
    ValueError
        If `corpus_root` is not set, or one file is named twice.
    """
    if not recipe.corpus_root:
        raise ValueError("the recipe needs the folder of its files: set corpus_root=FOLDER")
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
    """Return the files that match a glob, sorted; it may be absolute."""
    if Path(pattern).is_absolute():
        return sorted(Path(found) for found in glob(pattern))
    return sorted(root.glob(pattern))


def read_obs(path: Path) -> pd.DataFrame:
    """Read only the obs table of an h5ad; errors name the file."""
    try:
        with h5py.File(path) as file:
            return anndata.io.read_elem(file["obs"])
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a readable h5ad file: {error}") from error


def label_rows(
    path: Path, columns: Columns, ontology: Ontology, *, without: Set[str] = frozenset()
) -> LabelledRows:
    """Return the rows of a file that have a term of the ontology.

    Rows without an id and rows of the types in `without` are skipped. Obsolete ids are replaced if
    the ontology names a replacement.

    Raises
    ------
    ValueError
        If the file cannot be read or lacks the column of term ids.
    """
    obs = read_obs(path)
    if columns.term_id not in obs:
        raise ValueError(
            f"{path} has no obs column {columns.term_id!r} (set columns.term_id); "
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
    """Return an obs column as strings, '' where it or a value is missing."""
    if column not in obs:
        return np.full(len(obs), "", dtype=object)
    values = obs[column].astype(object)
    return np.array(
        ["" if pd.isna(value) else str(value).strip() for value in values], dtype=object
    )
