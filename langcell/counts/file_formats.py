"""Open a source of counts: AnnData in memory or on disk (h5ad, zarr), or 10x files.

anndata, pandas and zarr are imported only where they are needed: `langcell annotate` on an h5ad
starts in half the time without them.
"""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from langcell.counts.mudata_file import refuse_mudata
from langcell.counts.row_readers import (
    CompressedColumns,
    CompressedRows,
    DenseRows,
    RowReader,
    shards_checked,
)
from langcell.counts.source import (
    GENE_COLUMNS,
    KINDS,
    CountSource,
    GeneColumns,
    MatrixSlot,
    gene_columns,
)

if TYPE_CHECKING:
    from anndata import AnnData


def check_inputs(*paths: Path) -> None:
    """Raise if an input is missing; call it before a model is loaded or an output is checked.

    Raises
    ------
    FileNotFoundError
        Naming the first missing path.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")


def open_source(source: "AnnData | str | os.PathLike[str]", stack: ExitStack) -> CountSource:
    """Open a source of counts; `stack` closes its files and deletes its temporary copies.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If it is not a source of counts, or is damaged.
    """
    if not isinstance(source, str | os.PathLike):
        if source.isbacked:
            if source.is_view:
                raise ValueError(
                    "a view of a backed AnnData cannot be read: pass its file, or call .to_memory()"
                )
            return open_source(source.filename, stack)
        from langcell.counts.anndata_source import open_anndata

        return open_anndata(source)
    path = Path(source)
    check_inputs(path)
    if path.is_dir():
        return _open_folder(path, stack)
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: not an HDF5 file; counts are read from {KINDS}")
    try:
        file = stack.enter_context(h5py.File(path))
    except OSError as error:
        raise ValueError(f"{path}: damaged or cut short ({error})") from error
    refuse_mudata(file, str(path))
    if "var" in file:
        return _open_group(file, path, stack)
    from langcell.counts.tenx import open_tenx_h5

    return open_tenx_h5(file, path)


def _open_folder(path: Path, stack: ExitStack) -> CountSource:
    matrices = sorted([*path.glob("*matrix.mtx"), *path.glob("*matrix.mtx.gz")])
    if len(matrices) == 1:
        from langcell.counts.tenx import open_mtx

        return open_mtx(matrices[0], stack)
    if any((path / name).exists() for name in (".zgroup", "zarr.json")):
        import zarr

        group = zarr.open_group(path, mode="r")
        if "var" in group:
            return _open_group(group, path, stack)
    raise ValueError(
        f"{path}: a folder with {len(matrices)} matrix.mtx that is not an AnnData zarr; counts are"
        f" read from {KINDS}"
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
    # Files from before 2019 use the h5sparse attributes.
    kind = attributes.get("encoding-type", attributes.get("h5sparse_format", "unknown"))
    size = attributes.get("shape", attributes.get("h5sparse_shape"))
    if size is None or not str(kind).startswith(("csr", "csc")):
        raise ValueError(f"{label}: stored as {kind!r}; expected a CSR, CSC or dense matrix")
    shape = (int(size[0]), int(size[1]))
    if str(kind).startswith("csr"):
        return CompressedRows(element, shape)
    return CompressedColumns(element, shape, stack, label)


def _index_on_disk(frame: Any) -> np.ndarray:
    if not hasattr(frame, "keys"):  # a compound dataset: the layout before 2020
        from langcell.counts.anndata_source import text_values

        return text_values(frame[frame.dtype.names[0]])
    return _column_on_disk(frame[frame.attrs["_index"]])


def _column_on_disk(element: Any) -> np.ndarray:
    """Read a column of any dtype as an object array of str, '' where a value is missing."""
    if isinstance(element, h5py.Dataset) and h5py.check_string_dtype(element.dtype):
        return element.asstr()[:]
    if element.attrs.get("encoding-type") == "nullable-string-array" and isinstance(
        element, h5py.Group
    ):  # text of pandas 3; read here too, since anndata takes long to import
        values = element["values"].asstr()[:]
        values[element["mask"][:]] = ""
        return values
    from anndata.io import read_elem

    from langcell.counts.anndata_source import text_values

    with shards_checked():
        return text_values(read_elem(element))


def _genes_on_disk(var: Any) -> GeneColumns:
    names = {"index": _index_on_disk(var)}
    if not hasattr(var, "keys"):
        return gene_columns(names, None)
    names |= {name: _column_on_disk(var[name]) for name in GENE_COLUMNS if name in var}
    types = _column_on_disk(var["feature_types"]) if "feature_types" in var else None
    return gene_columns(names, types)
