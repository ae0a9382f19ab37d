"""Opens a source of counts: AnnData in memory or on disk (h5ad, zarr), or what 10x writes."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem

from langcell.count_source import KINDS, CountSource, GeneColumns, MatrixSlot, gene_columns
from langcell.row_readers import (
    CompressedColumns,
    CompressedRows,
    DenseRows,
    MemoryRows,
    RowReader,
)
from langcell.tenx import open_mtx, open_tenx_h5

# Columns of var that may hold better names than its index does.
GENE_COLUMNS = (
    "ensembl_id",
    "gene_ids",
    "gene_id",
    "feature_id",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "feature_name",
)


def open_source(source: AnnData | str | os.PathLike[str], stack: ExitStack) -> CountSource:
    """Open a source; what must be closed or deleted afterwards is put on the stack.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If what is there is not a source of counts, or is damaged.
    """
    if isinstance(source, AnnData):
        return _open_anndata(source, stack)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        return _open_folder(path, stack)
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: not an HDF5 file; counts are read from {KINDS}")
    try:
        file = stack.enter_context(h5py.File(path))
    except OSError as error:
        raise ValueError(f"{path}: damaged or cut short ({error})") from error
    return _open_group(file, path, stack) if "var" in file else open_tenx_h5(file, path)


def _open_folder(path: Path, stack: ExitStack) -> CountSource:
    matrices = sorted([*path.glob("*matrix.mtx"), *path.glob("*matrix.mtx.gz")])
    if len(matrices) == 1:
        return open_mtx(matrices[0], stack)
    if any((path / name).exists() for name in (".zgroup", "zarr.json")):
        group = zarr.open_group(path, mode="r")
        if "var" in group:
            return _open_group(group, path, stack)
    raise ValueError(
        f"{path}: a folder with {len(matrices)} matrix.mtx, and not an AnnData zarr; counts are read"
        f" from {KINDS}"
    )


def _open_group(group: Any, path: Path, stack: ExitStack) -> CountSource:
    matrices = {"raw.X": "raw/X", "X": "X"}
    matrices |= {f"layers/{name}": f"layers/{name}" for name in group.get("layers", {})}
    slots = {
        name: MatrixSlot(
            open_rows=partial(_rows_on_disk, group, key, f"{path} ({name})", stack),
            read_genes=partial(_genes_on_disk, group["raw/var" if name == "raw.X" else "var"]),
        )
        for name, key in matrices.items()
        if key in group
    }
    return CountSource(
        label=str(path), slots=slots, read_obs_names=partial(_index_on_disk, group["obs"])
    )


def _rows_on_disk(group: Any, key: str, label: str, stack: ExitStack) -> RowReader:
    element = group[key]
    if not hasattr(element, "keys"):
        return DenseRows(element)
    attributes = dict(element.attrs)
    # Files from before 2019 say it in the second way.
    kind = attributes.get("encoding-type", attributes.get("h5sparse_format", "unknown"))
    size = attributes.get("shape", attributes.get("h5sparse_shape"))
    if size is None or not str(kind).startswith(("csr", "csc")):
        raise ValueError(f"{label}: stored as {kind!r}; wanted a CSR, CSC or dense matrix")
    shape = (int(size[0]), int(size[1]))
    if str(kind).startswith("csr"):
        return CompressedRows(element, shape)
    return CompressedColumns(element, shape, stack, label)


def _index_on_disk(frame: Any) -> np.ndarray:
    if not hasattr(frame, "keys"):  # a compound dataset: the layout before 2020
        return _names(frame[frame.dtype.names[0]])
    return _names(read_elem(frame[frame.attrs["_index"]]))


def _genes_on_disk(var: Any) -> GeneColumns:
    names = {"index": _index_on_disk(var)}
    if not hasattr(var, "keys"):
        return gene_columns(names, None)
    names |= {name: _names(read_elem(var[name])) for name in GENE_COLUMNS if name in var}
    types = _names(read_elem(var["feature_types"])) if "feature_types" in var else None
    return gene_columns(names, types)


def _names(values: Any) -> np.ndarray:
    """Return any kind of column as an object array of str, '' where a value is missing."""
    values = np.asarray(values, dtype=object)
    return np.array(
        [
            value.decode() if isinstance(value, bytes) else "" if pd.isna(value) else str(value)
            for value in values
        ],
        dtype=object,
    )


def _open_anndata(adata: AnnData, stack: ExitStack) -> CountSource:
    if adata.isbacked:
        if adata.is_view:
            raise ValueError("a view of a backed AnnData: give its file, or .to_memory() first")
        return open_source(adata.filename, stack)
    matrices: dict[str, Any] = {}
    if adata.raw is not None:
        matrices["raw.X"] = adata.raw.X
    if adata.X is not None:
        matrices["X"] = adata.X
    matrices |= {f"layers/{name}": adata.layers[name] for name in adata.layers}
    slots = {
        name: MatrixSlot(
            open_rows=partial(MemoryRows, matrix),
            read_genes=partial(_genes_in_memory, adata.raw.var if name == "raw.X" else adata.var),
        )
        for name, matrix in matrices.items()
    }
    return CountSource(label="AnnData", slots=slots, read_obs_names=lambda: _names(adata.obs_names))


def _genes_in_memory(var: pd.DataFrame) -> GeneColumns:
    names = {"index": _names(var.index)}
    names |= {name: _names(var[name]) for name in GENE_COLUMNS if name in var}
    return gene_columns(names, _names(var["feature_types"]) if "feature_types" in var else None)
