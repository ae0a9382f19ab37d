"""Read obs columns as integer codes of their categories, a few bytes per cell.

Importing pandas, zarr and anndata takes a worker longer than surveying a file, so they are imported
only when a column needs them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """A categorical column.

    Attributes
    ----------
    codes
        Index of each cell's value in `values`, -1 if missing, int32, shape (n_cells,).
    values
        Distinct values as strings.
    """

    codes: np.ndarray
    values: tuple[str, ...]

    @classmethod
    def of(cls, values: Any) -> "Column":
        """Encode a column of any dtype; blanks count as missing.

        >>> Column.of(["b", "", "a", "b"]).codes.tolist()
        [1, -1, 0, 1]
        """
        import pandas as pd

        categories = pd.Categorical(values)
        return cls.coded(categories.codes, categories.categories)

    @classmethod
    def coded(cls, codes: np.ndarray, values: Sequence[Any]) -> "Column":
        """Make a column from codes into values of any dtype, -1 for missing.

        Blanks count as missing, and unused values are dropped.

        >>> column = Column.coded(np.array([0, 1, 2, -1]), ["b ", "a", " ", "c"])
        >>> column.codes.tolist(), column.values
        ([1, 0, -1, -1], ('a', 'b'))
        """
        if not -1 <= codes.min(initial=-1) <= codes.max(initial=-1) < len(values):
            raise ValueError(
                f"codes must be -1 to {len(values) - 1}, got {codes.min()} to {codes.max()}"
            )
        is_used = np.zeros(len(values) + 1, dtype=bool)
        is_used[codes] = True
        texts = [
            str(each).strip() if used else "" for each, used in zip(values, is_used, strict=False)
        ]
        names = sorted(set(texts) - {""})
        place = {name: code for code, name in enumerate(names)}
        # One more entry for the code -1 of missing values.
        recode = np.array([*(place.get(text, -1) for text in texts), -1], dtype=np.int32)
        return cls(codes=recode[codes], values=tuple(names))

    @classmethod
    def constant(cls, value: str, n_cells: int) -> "Column":
        """Return a column with the same value for all cells; '' means missing."""
        code = 0 if value else -1
        return cls(codes=np.full(n_cells, code, dtype=np.int32), values=(value,) if value else ())

    def take(self, cells: np.ndarray) -> "Column":
        """Return the column for the given cells."""
        return Column(codes=self.codes[cells], values=self.values)


def first_present(candidates: Iterable[str], available: Iterable[str]) -> str:
    """Return the first available candidate, '' if there is none."""
    return next((name for name in candidates if name in set(available)), "")


def read_obs_columns(path: Path, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Column]:
    """Read some columns of the obs table of an h5ad or zarr, and nothing else.

    Parameters
    ----------
    path
        File, or folder of a zarr. A file without obs (10x) has no columns.
    wanted
        Names that a column may have in a file, in order of preference, by our name for it.

    Returns
    -------
    dict of str to Column
        By our names; columns that the file lacks are left out.

    Raises
    ------
    ValueError
        If obs cannot be read.
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
        raise ValueError(f"{path}: its obs cannot be read ({error})") from error


def _columns(group: Any, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Column]:
    if "obs" not in group:
        return {}
    obs = group["obs"]
    # Before 2020 obs was one compound dataset.
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
    """Read one column of a file; categorical columns stay codes."""
    if isinstance(element, h5py.Group) and isinstance(element.get("categories"), h5py.Dataset):
        values = element["categories"]
        if h5py.check_string_dtype(values.dtype):
            return Column.coded(element["codes"][:], values.asstr()[:])
    return Column.of(_read(element))


def _read(element: Any) -> Any:
    from anndata.io import read_elem

    return read_elem(element)
