"""Add results to an h5ad file in blocks of rows, without reading the rest of the file."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.io import write_elem
from scipy import sparse

from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option

_CHUNK_BYTES = 1 << 20


class H5adWriter:
    """Append arrays, obs columns and uns entries to an open h5ad file.

    Parameters
    ----------
    file: an h5ad file opened for writing; see `extended_copy` and
        `langcell.output.h5ad_output.open_h5ad_output`
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._sparse_rows: dict[str, tuple[int, int]] = {}

    def append_rows(self, key: str, rows: np.ndarray) -> None:
        """Append rows to the dense array at `key`, such as "obsm/X_langcell".

        Parameters
        ----------
        key: path of the array in the file
        rows: shape (n_rows, width)
        """
        if key not in self.file:
            self._parent(key)
            dataset = _resizable(self.file, key, rows.dtype, rows.shape[1:])
            dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        _extend(self.file[key], rows)

    def append_csr(self, key: str, rows: sparse.csr_matrix) -> None:
        """Append rows to the sparse matrix at `key`."""
        if key not in self.file:
            self._parent(key)
            group = self.file.create_group(key)
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
            for name, dtype in (("data", rows.dtype), ("indices", np.int32), ("indptr", np.int64)):
                _resizable(group, name, np.dtype(dtype), ())
            _extend(group["indptr"], np.zeros(1, dtype=np.int64))
            self._sparse_rows[key] = (0, 0)
        group = self.file[key]
        n_rows, n_stored = self._sparse_rows[key]
        _extend(group["data"], rows.data)
        _extend(group["indices"], rows.indices.astype(np.int32))
        _extend(group["indptr"], rows.indptr[1:].astype(np.int64) + n_stored)
        n_rows += rows.shape[0]
        self._sparse_rows[key] = (n_rows, n_stored + rows.nnz)
        group.attrs["shape"] = np.array([n_rows, rows.shape[1]], dtype=np.int64)

    def set_obs(self, name: str, values: Any) -> None:
        """Write an obs column: an array or pandas Categorical with one value per cell."""
        obs = self.file["obs"]
        write_elem(obs, name, values)
        self._set_columns([*(column for column in self._columns() if column != name), name])

    def set_uns(self, key: str, value: Mapping[str, Any] | str) -> None:
        """Write a (nested) dictionary or a string to uns; `key` may be a path in it."""
        self._parent(f"uns/{key}")
        parent, _, name = f"uns/{key}".rpartition("/")
        write_elem(self.file[parent], name, value if isinstance(value, str) else dict(value))

    def remove(self, slots: list[str]) -> None:
        """Delete the elements at `slots` from an earlier run."""
        for slot in slots:
            if slot in self.file:
                del self.file[slot]
        self._set_columns([name for name in self._columns() if name in self.file["obs"]])

    def take(self, other: h5py.File, slots: list[str]) -> None:
        """Delete the elements at `slots`, and copy those of another file."""
        self.remove(slots)
        made = H5adWriter(other)
        for slot in slots:
            if slot in other:
                self._parent(slot)
                other.copy(slot, self.file, name=slot)
        self._set_columns([*self._columns(), *made._columns()])

    def _columns(self) -> list[str]:
        # str(): the order of a table without columns is stored as an empty float array.
        return [str(name) for name in self.file["obs"].attrs["column-order"]]

    def _set_columns(self, names: list[str]) -> None:
        self.file["obs"].attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())

    def _parent(self, key: str) -> None:
        """Create the parent group of `key` if the file lacks it."""
        name = key.rpartition("/")[0]
        if name and name not in self.file:
            group = self.file.create_group(name)
            group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})


def check_slots(path: Path, slots: list[str], *, overwrite: bool) -> None:
    """Raise if results cannot be added to an h5ad file.

    Parameters
    ----------
    path: the h5ad file that will be copied
    slots: elements to write, such as "obs/langcell_margin"
    overwrite: replace existing elements

    Raises
    ------
    ValueError
        If an element exists and `overwrite` is False, or the file is older than anndata 0.7.
    """
    with h5py.File(path, "r") as file:
        if not isinstance(file["obs"], h5py.Group):
            raise ValueError(
                f"{path} was written by anndata before 0.7; read it and write it again with "
                "anndata.read_h5ad(path).write_h5ad(new_path)"
            )
        taken = [slot for slot in slots if slot in file]
    if taken and not overwrite:
        raise ValueError(
            f"{path} already has {', '.join(taken)}; pass {option('overwrite', True)} to replace "
            f"them, or choose other names with {option('key_added')}"
        )


@contextmanager
def extended_copy(source: Path, target: Path) -> Iterator[H5adWriter]:
    """Yield a writer on a byte-by-byte copy of an h5ad file.

    The target is created if the block ends without an error.
    """
    with replaced_file(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            yield H5adWriter(file)


def _resizable(
    group: h5py.Group, name: str, dtype: np.dtype, row_shape: tuple[int, ...]
) -> h5py.Dataset:
    row_bytes = max(1, dtype.itemsize * int(np.prod(row_shape, dtype=np.int64)))
    return group.create_dataset(
        name,
        shape=(0, *row_shape),
        maxshape=(None, *row_shape),
        chunks=(max(1, _CHUNK_BYTES // row_bytes), *row_shape),
        dtype=dtype,
    )


def _extend(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    start = len(dataset)
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows
