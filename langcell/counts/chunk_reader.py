"""Read slices of chunked HDF5 arrays, decompressing the chunks in parallel threads.

HDF5 itself decompresses one chunk at a time under a global lock, which takes most of the time of
reading a compressed h5ad, and copies uncompressed chunks twice.
"""

from typing import Any, cast

import h5py
import numpy as np
from isal import isal_zlib

from langcell.counts.lzf_kernel import unpack_lzf
from langcell.runtime.threads import over_slices

_DEFLATE, _SHUFFLE, _LZF = 1, 2, 32000  # HDF5 filter ids; gzip is deflate
_TASK_BYTES = 1 << 19
_InflateError = cast("type[Exception]", isal_zlib.error)  # its stubs declare it as an instance


class ChunkReader:
    """A one-dimensional chunked HDF5 dataset of numbers with supported compression filters.

    Parameters
    ----------
    dataset
        The dataset to read; see `open_array`.
    filters
        HDF5 filter ids in the order in which they were applied; empty if it is not compressed.

    Attributes
    ----------
    shape : shape of the dataset, (n_values,).
    dtype : dtype of the values.
    """

    def __init__(self, dataset: h5py.Dataset, filters: tuple[int, ...]) -> None:
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._dataset, self._filters = dataset, filters
        self._length = int(dataset.chunks[0])
        # Cached: the next slice usually begins in the chunk in which the last one ended.
        self._last = (-1, np.empty(0, self.dtype))

    def __getitem__(self, piece: slice) -> np.ndarray:
        """Return the values from `piece.start` to `piece.stop`.

        Raises
        ------
        OSError
            If a chunk is damaged.
        """
        start, stop, _ = piece.indices(self.shape[0])
        values = np.empty(max(0, stop - start), self.dtype)
        if not len(values):
            return values
        first, last = start // self._length, (stop - 1) // self._length
        cached = self._last

        def fill(begin: int, end: int) -> None:
            for number in range(first + begin, first + end):
                chunk_start = number * self._length
                low, high = max(start, chunk_start), min(stop, chunk_start + self._length)
                target = values[low - start : high - start]
                if len(target) == self._length and number != cached[0]:
                    self._unpack(number, target)
                    continue
                chunk = cached[1]
                if number != cached[0]:
                    chunk = np.empty(self._length, self.dtype)
                    self._unpack(number, chunk)
                target[:] = chunk[low - chunk_start : high - chunk_start]
                if number == last:
                    self._last = (number, chunk)

        chunks_per_task = max(1, _TASK_BYTES // (self._length * self.dtype.itemsize))
        over_slices(fill, last + 1 - first, size=chunks_per_task)
        return values

    def _unpack(self, number: int, values: np.ndarray) -> None:
        """Read one chunk and decompress it into `values`."""
        offset, target = (number * self._length,), values.view(np.uint8)
        if not self._filters:
            self._dataset.id.read_direct_chunk(offset, out=target)
            return
        # Bit i of the mask says that filter i was skipped, for example if it saved no bytes.
        mask, stored = self._dataset.id.read_direct_chunk(offset)
        packed = np.frombuffer(stored, np.uint8)
        used = [each for bit, each in enumerate(self._filters) if not mask >> bit & 1]
        try:
            while used:
                unpack = _UNPACK[used.pop()]
                unpacked = np.empty_like(target) if used else target
                unpack(packed, unpacked, values.dtype.itemsize)
                packed = unpacked
            if packed is not target:
                _fill(target, packed)
        except (ValueError, _InflateError) as error:
            raise OSError(f"chunk {number} cannot be decompressed: {error}") from error


def open_array(array: Any) -> Any:
    """Return a `ChunkReader` for an array that it supports, otherwise the array itself.

    Not supported are zarr arrays, arrays without chunks, other compression filters, unusual number
    types, and arrays with chunks that were never written.

    Raises
    ------
    OSError
        If a chunk is damaged.
    """
    if not isinstance(array, h5py.Dataset) or array.chunks is None or array.ndim != 1:
        return array
    if array.dtype.kind not in "iuf" or not array.id.get_type().equal(
        h5py.h5t.py_create(array.dtype)
    ):
        return array  # stored bytes differ from the bytes in memory
    settings = array.id.get_create_plist()
    filters = tuple(settings.get_filter(i)[0] for i in range(settings.get_nfilters()))
    n_chunks = -(-array.shape[0] // array.chunks[0])
    if not set(filters) <= _UNPACK.keys() or array.id.get_num_chunks() != n_chunks:
        return array
    if not filters:
        _check_sizes(array)
    return ChunkReader(array, filters)


def _check_sizes(dataset: h5py.Dataset) -> None:
    """Raise unless each chunk has the right number of bytes.

    HDF5 copies as many bytes as the file states, even beyond the end of the buffer.
    """
    n_bytes = dataset.chunks[0] * dataset.dtype.itemsize
    wrong = dataset.id.chunk_iter(lambda chunk: chunk if chunk.size != n_bytes else None)
    if wrong is not None:
        number = wrong.chunk_offset[0] // dataset.chunks[0]
        raise OSError(f"chunk {number} has {wrong.size} bytes, expected {n_bytes}")


def _fill(target: np.ndarray, values: np.ndarray) -> None:
    if len(values) != len(target):
        raise ValueError(f"it has {len(values)} bytes, expected {len(target)}")
    target[:] = values


def _inflate(packed: np.ndarray, values: np.ndarray, item_bytes: int) -> None:
    # isal is twice as fast as zlib.
    unpacked = isal_zlib.decompress(packed.data, bufsize=len(values))
    _fill(values, np.frombuffer(unpacked, np.uint8))


def _decode_lzf(packed: np.ndarray, values: np.ndarray, item_bytes: int) -> None:
    unpack_lzf(packed, values)


def _unshuffle(packed: np.ndarray, values: np.ndarray, item_bytes: int) -> None:
    """Undo HDF5's shuffle filter, which stores the first bytes of all values, then the second."""
    if len(packed) != len(values):
        raise ValueError(f"it has {len(packed)} bytes, expected {len(values)}")
    values.reshape(-1, item_bytes)[:] = packed.reshape(item_bytes, -1).T


_UNPACK = {_DEFLATE: _inflate, _SHUFFLE: _unshuffle, _LZF: _decode_lzf}
