"""Read obs columns of an AnnData or a file, without the rest of the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from langcell.counts.file_formats import check_inputs
from langcell.counts.mudata_file import refuse_mudata

if TYPE_CHECKING:
    from anndata import AnnData


def obs_columns(source: "AnnData | str | Path") -> list[str]:
    """Return the names of the obs columns of an AnnData or h5ad file.

    Raises
    ------
    ValueError
        If the file is not an h5ad.
    """
    if not isinstance(source, str | Path):
        return [str(name) for name in source.obs.columns]
    if not Path(source).is_file() or not h5py.is_hdf5(source):
        raise ValueError(f"{source} is not an h5ad file")
    with h5py.File(source, "r") as file:
        refuse_mudata(file, str(source))
        if "obs" not in file or not hasattr(file["obs"], "keys"):
            raise ValueError(f"{source} has no obs table")
        return [str(name) for name in file["obs"].attrs["column-order"]]


def read_obs_column(source: "AnnData | str | Path", key: str) -> np.ndarray:
    """Return an obs column as strings, '' where a value is missing.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the source has no obs (10x files) or no such column.
    """
    if not isinstance(source, str | Path):
        return _as_text(_column(source.obs, list(source.obs.columns), key, "the AnnData"))
    path = Path(source)
    check_inputs(path)
    if not path.is_dir():
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path}: not an HDF5 file, so it has no column {key!r} in obs")
        with h5py.File(path, "r") as file:
            return _stored_column(file, key, path)
    if any((path / name).exists() for name in (".zgroup", "zarr.json")):
        return _stored_column(zarr.open_group(path, mode="r"), key, path)
    raise ValueError(f"{path} has no obs table, so no column {key!r} in obs")


def _stored_column(group: Any, key: str, path: Path) -> np.ndarray:
    refuse_mudata(group, str(path))
    if "obs" not in group or not hasattr(group["obs"], "keys"):
        raise ValueError(f"{path} has no obs table, so no column {key!r} in obs")
    obs = group["obs"]
    columns = [str(name) for name in obs.attrs["column-order"]]
    if key not in columns:
        _column({}, columns, key, str(path))
    return _as_text(read_elem(obs[key]))


def _column(table: Any, columns: Sequence[str], key: str, where: str) -> Any:
    if key not in columns:
        raise ValueError(
            f"{where} has no column {key!r} in obs; it has {', '.join(map(str, columns)) or 'none'}"
        )
    return table[key]


def _as_text(values: Any) -> np.ndarray:
    series = pd.Series(values)
    # Missing values turn an integer column into floats: keep cluster 1 as "1", not "1.0".
    if pd.api.types.is_float_dtype(series.dtype) and (series.dropna() % 1 == 0).all():
        series = series.astype("Int64")
    series = series.astype(object)
    return series.where(series.notna(), "").astype(str).to_numpy(dtype=object)
