"""Temporary CSR matrix on disk, built from (row, column, value) triples in any order."""

import errno
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from scipy import sparse

_BAND_VALUES = 1 << 21  # mean number of values in the rows that are sorted together
_ENTRY = np.dtype([("row", np.int32), ("column", np.int32), ("value", np.float64)])
_PAIR = np.dtype([("column", np.int32), ("value", np.float64)])


@dataclass(frozen=True, kw_only=True)
class Triples:
    """Some entries of a matrix; each array has shape (n_entries,)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class CsrStore:
    """Temporary files with a CSR matrix; a context manager that deletes them at the end.

    Entries are first written to one file per band of rows, then each band is sorted on its own, so
    that memory does not grow with the matrix. The files are not memory-mapped, because mapped
    pages count as memory of the process.

    Parameters
    ----------
    shape : (n_rows, n_columns).
    n_values : number of entries that will be added.
    why : first half of the warning about the copy.

    Raises
    ------
    OSError
        If the disk of the temporary folder is too small.
    """

    def __init__(self, shape: tuple[int, int], n_values: int, why: str) -> None:
        self.shape = shape
        size = n_values * (_ENTRY.itemsize + _PAIR.itemsize)
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f"{why}; a temporary copy as CSR needs {size / 1e9:.1f} GB in {folder}, but only"
                f" {free / 1e9:.1f} GB are free: set TMPDIR to a larger disk, or save the file as CSR",
            )
        warnings.warn(
            f"{why}; making a temporary copy as CSR ({size / 1e9:.2f} GB in {folder})",
            UserWarning,
            stacklevel=2,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="langcell-")
        self._rows_per_band = max(1, min(shape[0], shape[0] * _BAND_VALUES // max(1, n_values)))
        self._indptr = np.zeros(shape[0] + 1, dtype=np.int64)

    def __enter__(self) -> "CsrStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    @property
    def _matrix(self) -> Path:
        return Path(self._folder.name) / "matrix"

    def _band(self, number: int) -> Path:
        return Path(self._folder.name) / f"band-{number}"

    def fill(self, parts: Iterable[Triples]) -> int:
        """Write all entries and return their number."""
        for part in parts:
            self._add_to_bands(part)
        with self._matrix.open("wb") as matrix:
            for number in range(-(-self.shape[0] // self._rows_per_band)):
                band = self._band(number)
                entries = np.fromfile(band, _ENTRY) if band.exists() else np.empty(0, _ENTRY)
                band.unlink(missing_ok=True)
                entries = entries[np.argsort(entries["row"], kind="stable")]
                first = number * self._rows_per_band
                last = min(self.shape[0], first + self._rows_per_band)
                counts = np.bincount(entries["row"] - first, minlength=last - first)
                self._indptr[first + 1 : last + 1] = self._indptr[first] + np.cumsum(counts)
                entries[["column", "value"]].astype(_PAIR).tofile(matrix)
        return int(self._indptr[-1])

    def _add_to_bands(self, part: Triples) -> None:
        for name, values, size in (("row", part.rows, 0), ("column", part.columns, 1)):
            if len(values) and not 0 <= values.min() <= values.max() < self.shape[size]:
                raise ValueError(f"a {name} index lies outside the matrix of shape {self.shape}")
        entries = np.empty(len(part.rows), _ENTRY)
        entries["row"], entries["column"] = part.rows, part.columns
        entries["value"] = part.values
        bands = entries["row"] // self._rows_per_band
        order = np.argsort(bands, kind="stable")
        numbers, starts = np.unique(bands[order], return_index=True)
        for number, piece in zip(numbers, np.split(order, starts[1:]), strict=True):
            with self._band(number).open("ab") as band:
                entries[piece].tofile(band)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return rows start to stop as CSR, float64."""
        indptr = self._indptr[start : stop + 1]
        pairs = np.fromfile(
            self._matrix,
            _PAIR,
            count=int(indptr[-1] - indptr[0]),
            offset=int(indptr[0]) * _PAIR.itemsize,
        )
        columns, values = pairs["column"].copy(), pairs["value"].copy()
        return sparse.csr_matrix(
            (values, columns, indptr - indptr[0]), (stop - start, self.shape[1])
        )
