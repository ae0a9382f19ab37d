"""Read an annotated h5ad file or AnnData in blocks of cells."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from langcell.counts.mudata_file import refuse_mudata

_BLOCK_ROWS = 8192


class AnnotatedSource(Protocol):
    """Protocol of an annotated file or AnnData.

    Attributes
    ----------
    label: name of the source in messages
    columns: names of the obs columns
    slots: keys of obsm
    n_cells: number of cells
    """

    label: str
    columns: list[str]
    slots: list[str]
    n_cells: int

    def column(self, name: str) -> pd.Series:
        """Return an obs column."""

    def notes(self, key: str) -> dict[str, Any]:
        """Return an entry of uns, empty if missing."""

    def blocks(self, slot: str) -> Iterator[tuple[int, Any]]:
        """Yield (first row, rows) of an entry of obsm, dense or CSR."""


class AnnotatedFile:
    """An open h5ad file; see `open_annotated`."""

    def __init__(self, file: h5py.File, label: str) -> None:
        refuse_mudata(file, label)
        self._file = file
        self.label = label
        if not isinstance(file.get("obs"), h5py.Group):
            raise ValueError(f"{label} has no obs; give an annotated h5ad file")
        self.columns = [str(name) for name in file["obs"].attrs["column-order"]]
        self.slots = list(file.get("obsm", {}))
        # A group where pandas 3 held the names, so the parts of it are not to be counted.
        self.n_cells = len(read_elem(file["obs"][file["obs"].attrs["_index"]]))

    def column(self, name: str) -> pd.Series:
        """Return an obs column."""
        return pd.Series(read_elem(self._file["obs"][name]))

    def notes(self, key: str) -> dict[str, Any]:
        """Return an entry of uns, empty if missing."""
        return dict(read_elem(self._file["uns"][key])) if key in self._file.get("uns", {}) else {}

    def blocks(self, slot: str) -> Iterator[tuple[int, Any]]:
        """Yield (first row, rows) of an entry of obsm."""
        stored = self._file["obsm"][slot]
        if isinstance(stored, h5py.Group):
            stored = (
                sparse_dataset(stored)
                if str(stored.attrs.get("encoding-type")).startswith("cs")
                else read_elem(stored).to_numpy()
            )
        yield from _rows(stored, self.n_cells)


class AnnotatedAnnData:
    """An annotated AnnData in memory."""

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata
        self.label = "AnnData in memory"
        self.columns = [str(name) for name in adata.obs.columns]
        self.slots = list(adata.obsm)
        self.n_cells = adata.n_obs

    def column(self, name: str) -> pd.Series:
        """Return an obs column."""
        return self._adata.obs[name]

    def notes(self, key: str) -> dict[str, Any]:
        """Return an entry of uns, empty if missing."""
        return dict(self._adata.uns.get(key, {}))

    def blocks(self, slot: str) -> Iterator[tuple[int, Any]]:
        """Yield (first row, rows) of an entry of obsm."""
        stored = self._adata.obsm[slot]
        if isinstance(stored, pd.DataFrame):
            stored = stored.to_numpy()
        yield from _rows(stored, self.n_cells)


def _rows(stored: Any, n_cells: int) -> Iterator[tuple[int, Any]]:
    for start in range(0, n_cells, _BLOCK_ROWS):
        rows = stored[start : min(start + _BLOCK_ROWS, n_cells)]
        yield start, sparse.csr_matrix(rows) if sparse.issparse(rows) else np.asarray(rows)


@contextmanager
def open_annotated(source: AnnData | str | Path) -> Iterator[AnnotatedSource]:
    """Open an annotated h5ad file or AnnData.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file or it is not an h5ad file.
    """
    if isinstance(source, AnnData):
        yield AnnotatedAnnData(source)
        return
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise ValueError(f"{path}: not an HDF5 file; give an h5ad file annotated by langcell")
    with h5py.File(path, "r") as file:
        yield AnnotatedFile(file, str(path))


def read_rows(source: AnnotatedSource, slot: str, rows: np.ndarray) -> np.ndarray:
    """Return some rows of a dense entry of obsm, shape (n_rows, width); `rows` must ascend."""
    picked = [
        block[
            rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(block))] - start
        ]
        for start, block in source.blocks(slot)
    ]
    return np.concatenate(picked)
