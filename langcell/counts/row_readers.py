"""Readers of cells x genes matrices in any layout; each returns ranges of rows as CSR."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from langcell.counts.chunk_reader import open_array
from langcell.counts.csr_store import CsrStore, Triples

_SAMPLE_PIECES = 4
_SAMPLE_VALUES = 50_000  # per piece
_DENSE_BYTES = 1 << 24  # bytes of a dense matrix in memory at once
_COLUMN_VALUES = 1 << 21  # values of a CSC matrix read at once


class RowReader(Protocol):
    """A cells x genes matrix that is read a few rows at a time."""

    shape: tuple[int, int]

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop; values float32 or float64."""

    def sample_values(self) -> np.ndarray:
        """Return a sample of the stored values, from all over the matrix."""


def float_values(values: np.ndarray) -> np.ndarray:
    """Return the values as float32 if it holds them exactly, else as float64."""
    small = values.dtype.itemsize <= 2 or values.dtype == np.float32
    return values.astype(np.float32 if small else np.float64, copy=False)


def spread(total: int, length: int) -> Iterator[slice]:
    """Yield a few slices of `length`, evenly spread over `total`."""
    for number in range(_SAMPLE_PIECES):
        start = max(0, (total - length) * number // (_SAMPLE_PIECES - 1))
        yield slice(start, start + length)
        if length >= total:
            return


@contextmanager
def shards_checked() -> Iterator[None]:
    """Raise RuntimeError, as for other damage, where zarr finds a shard broken."""
    try:
        yield
    except ValueError as error:  # which elsewhere says that the user asked for what cannot be
        raise RuntimeError(str(error)) from error


def _part(array: Any, rows: slice) -> np.ndarray:
    with shards_checked():
        return np.asarray(array[rows])


class MemoryRows:
    """A sparse matrix or a NumPy array that is in memory."""

    def __init__(self, matrix: Any) -> None:
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        self._matrix = matrix.tocsr() if sparse.issparse(matrix) else matrix

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop."""
        rows = sparse.csr_matrix(self._matrix[start:stop])
        return sparse.csr_matrix((float_values(rows.data), rows.indices, rows.indptr), rows.shape)

    def sample_values(self) -> np.ndarray:
        """Return some of the stored values."""
        if not sparse.issparse(self._matrix):
            return DenseRows(self._matrix).sample_values()
        values = self._matrix.data
        return np.concatenate([values[piece] for piece in spread(len(values), _SAMPLE_VALUES)])


class DenseRows:
    """A dense array in memory, HDF5 or zarr; only a few rows are in memory as dense at a time."""

    def __init__(self, array: Any) -> None:
        self.shape = (int(array.shape[0]), int(array.shape[1]))
        self._array = array
        self._step = max(1, _DENSE_BYTES // max(1, self.shape[1] * array.dtype.itemsize))

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop."""
        parts = [
            sparse.csr_matrix(
                float_values(_part(self._array, slice(at, min(stop, at + self._step))))
            )
            for at in range(start, stop, self._step)
        ]
        return sparse.vstack(parts, format="csr")

    def sample_values(self) -> np.ndarray:
        """Return the values of some rows."""
        n_rows = min(self._step, 1 + _SAMPLE_VALUES // max(1, self.shape[1]))
        pieces = [_part(self._array, rows).ravel() for rows in spread(self.shape[0], n_rows)]
        return np.concatenate(pieces)


class CompressedRows:
    """A CSR matrix in HDF5 or zarr: arrays data, indices and indptr."""

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._data, self._indices = open_array(group["data"]), open_array(group["indices"])
        # Eight bytes a cell: the one part of the matrix that is held whole.
        self._indptr = _part(group["indptr"], slice(None)).astype(np.int64, copy=False)
        if len(self._indptr) != shape[0] + 1:
            raise RuntimeError(f"indptr must have length {shape[0] + 1}, got {len(self._indptr)}")

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop."""
        indptr = self._indptr[start : stop + 1]
        stored = slice(indptr[0], indptr[-1])
        values, indices = _part(self._data, stored), _part(self._indices, stored)
        return sparse.csr_matrix(
            (float_values(values), indices, indptr - indptr[0]), (stop - start, self.shape[1])
        )

    def sample_values(self) -> np.ndarray:
        """Return some of the stored values."""
        pieces = spread(self._data.shape[0], _SAMPLE_VALUES)
        return np.concatenate([_part(self._data, piece) for piece in pieces])


class CompressedColumns:
    """A CSC matrix in HDF5 or zarr; the first read makes a temporary CSR copy on disk."""

    def __init__(self, group: Any, shape: tuple[int, int], stack: ExitStack, label: str) -> None:
        self.shape = shape
        self._data, self._rows = open_array(group["data"]), open_array(group["indices"])
        self._indptr, self._stack, self._label = group["indptr"], stack, label
        self._store: CsrStore | None = None

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop."""
        if self._store is None:
            n_values = int(self._data.shape[0])
            why = f"{self._label} is stored by gene"
            self._store = self._stack.enter_context(CsrStore(self.shape, n_values, why))
            self._store.fill(self._triples())
        return self._store.read(start, stop)

    def _triples(self) -> Iterator[Triples]:
        indptr = _part(self._indptr, slice(None)).astype(np.int64, copy=False)
        for start in range(0, int(indptr[-1]), _COLUMN_VALUES):
            piece = slice(start, min(start + _COLUMN_VALUES, int(indptr[-1])))
            positions = np.arange(piece.start, piece.stop)
            columns = np.searchsorted(indptr, positions, side="right") - 1
            yield Triples(
                rows=_part(self._rows, piece),
                columns=columns,
                values=_part(self._data, piece),
            )

    def sample_values(self) -> np.ndarray:
        """Return some of the stored values."""
        pieces = spread(self._data.shape[0], _SAMPLE_VALUES)
        return np.concatenate([_part(self._data, piece) for piece in pieces])
