"""Columns of a table of cells as codes into their distinct values: a few bytes a cell.

pandas, zarr and anndata take longer to import than a file takes to survey, in each worker of a
build, so they are imported where a column needs them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np


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
        import pandas as pd

        categories = pd.Categorical(values)
        return cls.coded(categories.codes, categories.categories)

    @classmethod
    def coded(cls, codes: np.ndarray, values: Sequence[Any]) -> "Column":
        """Make a column of codes into values of any kind, -1 for none.

        Blanks count as missing, and values that no cell has are left out.

        >>> column = Column.coded(np.array([0, 1, 2, -1]), ["b ", "a", " ", "c"])
        >>> column.codes.tolist(), column.values
        ([1, 0, -1, -1], ('a', 'b'))
        """
        if not -1 <= codes.min(initial=-1) <= codes.max(initial=-1) < len(values):
            raise ValueError(f"codes up to {codes.max()} for {len(values)} values")
        is_used = np.zeros(len(values) + 1, dtype=bool)
        is_used[codes] = True
        texts = [
            str(each).strip() if used else "" for each, used in zip(values, is_used, strict=False)
        ]
        names = sorted(set(texts) - {""})
        place = {name: code for code, name in enumerate(names)}
        # One more for the code -1 of missing values.
        recode = np.array([*(place.get(text, -1) for text in texts), -1], dtype=np.int32)
        return cls(codes=recode[codes], values=tuple(names))

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
            import zarr

            return _columns(zarr.open_group(path, mode="r"), wanted)
        with h5py.File(path) as file:
            return _columns(file, wanted)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: its table of cells cannot be read ({error})") from error


def _columns(group: Any, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Column]:
    if "obs" not in group:
        return {}
    obs = group["obs"]
    # Before 2020 the table was one compound dataset.
    is_compound = not hasattr(obs, "keys")
    table = _read(obs) if is_compound else obs
    available = list(table.keys())
    found = {ours: first_present(names, available) for ours, names in wanted.items()}
    return {
        ours: Column.of(table[name]) if is_compound else _stored_column(table[name])
        for ours, name in found.items()
        if name
    }


def _stored_column(element: Any) -> Column:
    """Read one column of a file; a table that is kept as codes is not spread out."""
    if isinstance(element, h5py.Group) and isinstance(element.get("categories"), h5py.Dataset):
        values = element["categories"]
        if h5py.check_string_dtype(values.dtype):
            return Column.coded(element["codes"][:], values.asstr()[:])
    return Column.of(_read(element))


def _read(element: Any) -> Any:
    from anndata.io import read_elem

    return read_elem(element)
