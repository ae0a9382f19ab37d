"""Columns of a table of cells as codes into their distinct values: a few bytes a cell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One column.

    Attributes
    ----------
    codes
        Place of each cell's value in `values`, -1 where it has none, int32, shape (n_cells,).
    values
        Distinct values as text.
    """

    codes: np.ndarray
    values: tuple[str, ...]

    @classmethod
    def of(cls, values: Any) -> "Column":
        """Encode a column of any kind; blanks count as missing.

        >>> Column.of(["b", "", "a", "b"]).codes.tolist()
        [1, -1, 0, 1]
        """
        categories = pd.Categorical(values)
        texts = [str(each).strip() for each in categories.categories]
        names = sorted(set(texts) - {""})
        place = {name: code for code, name in enumerate(names)}
        # One more for the code -1 of missing values.
        recode = np.array([*(place.get(text, -1) for text in texts), -1], dtype=np.int32)
        return cls(codes=recode[categories.codes], values=tuple(names))

    @classmethod
    def constant(cls, value: str, n_cells: int) -> "Column":
        """Give all cells one value, or none if it is ''."""
        code = 0 if value else -1
        return cls(codes=np.full(n_cells, code, dtype=np.int32), values=(value,) if value else ())

    def take(self, cells: np.ndarray) -> "Column":
        """Return the column of some cells."""
        return Column(codes=self.codes[cells], values=self.values)


def first_present(candidates: Iterable[str], available: Iterable[str]) -> str:
    """Return the first of some names that is there, '' if none is."""
    return next((name for name in candidates if name in set(available)), "")


def read_obs_columns(path: Path, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Column]:
    """Read columns of the obs table of an h5ad or a zarr, and nothing else of it.

    Parameters
    ----------
    path
        File, or folder of a zarr. What has no table of cells (10x) has no columns.
    wanted
        Names that a column may have in a file, first choice first, by what it is to us.

    Returns
    -------
    dict of str to Column
        By what they are to us; what the file lacks is left out.

    Raises
    ------
    ValueError
        If the table cannot be read.
    """
    try:
        if path.is_dir():
            if not any((path / name).exists() for name in (".zgroup", "zarr.json")):
                return {}
            return _columns(zarr.open_group(path, mode="r"), wanted)
        with h5py.File(path) as file:
            return _columns(file, wanted)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: its table of cells cannot be read ({error})") from error


def _columns(group: Any, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Column]:
    if "obs" not in group:
        return {}
    obs = group["obs"]
    # Before 2020 the table was one compound dataset.
    table = obs if hasattr(obs, "keys") else read_elem(obs)
    available = list(table.keys())
    found = {ours: first_present(names, available) for ours, names in wanted.items()}
    return {
        ours: Column.of(read_elem(table[name]) if hasattr(obs, "keys") else table[name])
        for ours, name in found.items()
        if name
    }
