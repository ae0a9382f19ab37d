"""Slices of chunked HDF5 arrays, their chunks read to where they belong and unpacked by threads.

HDF5 unpacks one chunk after the other and keeps all other threads from it meanwhile; most of the time
that it takes to read a compressed h5ad goes there. Chunks that are not packed it copies twice.
"""

from typing import Any, cast

import h5py
import numpy as np
from isal import isal_zlib

from langcell.counts.lzf_kernel import unpack_lzf
from langcell.runtime.threads import over_slices

_DEFLATE, _SHUFFLE, _LZF = 1, 2, 32000  # HDF5's numbers of filters; gzip is deflate
_TASK_BYTES = 1 << 19
_InflateError = cast("type[Exception]", isal_zlib.error)  # which its types call an instance


class ChunkReader:
    """A one-dimensional HDF5 dataset of numbers in chunks, packed in a way that is known here.

    Parameters
    ----------
    dataset
        What to read; see `open_array`.
    filters
        Numbers of the filters that packed it, in their order; none if it is not packed.

    Attributes
    ----------
    shape : that of the dataset, (n_values,).
    dtype : of its values.
    """

    def __init__(self, dataset: h5py.Dataset, filters: tuple[int, ...]) -> None:
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._dataset, self._filters = dataset, filters
        self._length = int(dataset.chunks[0])
        # The chunk that a slice ends in is most often the one that the next begins in.
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
        known = self._last

        def fill(begin: int, end: int) -> None:
            for number in range(first + begin, first + end):
                at = number * self._length
                low, high = max(start, at), min(stop, at + self._length)
                target = values[low - start : high - start]
                if len(target) == self._length and number != known[0]:
                    self._unpack(number, target)
                    continue
                chunk = known[1]
                if number != known[0]:
                    chunk = np.empty(self._length, self.dtype)
                    self._unpack(number, chunk)
                target[:] = chunk[low - at : high - at]
                if number == last:
                    self._last = (number, chunk)

        a_task = max(1, _TASK_BYTES // (self._length * self.dtype.itemsize))
        over_slices(fill, last + 1 - first, size=a_task)
        return values

    def _unpack(self, number: int, values: np.ndarray) -> None:
        """Fill `values` with all values of a chunk."""
        place, target = (number * self._length,), values.view(np.uint8)
        if not self._filters:
            self._dataset.id.read_direct_chunk(place, out=target)
            return
        # Bit i of the mask says that filter i was left out, as where it would have gained nothing.
        mask, stored = self._dataset.id.read_direct_chunk(place)
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
            raise OSError(f"chunk {number} cannot be unpacked: {error}") from error


def open_array(array: Any) -> Any:
    """Return what reads slices of an array fast: a `ChunkReader`, or the array itself.

    Arrays of zarr, those without chunks or packed in another way, those of odd numbers and those with
    chunks that were never written are read as they are.

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
        return array  # bytes that are not those of the values in memory
    settings = array.id.get_create_plist()
    filters = tuple(settings.get_filter(place)[0] for place in range(settings.get_nfilters()))
    n_chunks = -(-array.shape[0] // array.chunks[0])
    if not set(filters) <= _UNPACK.keys() or array.id.get_num_chunks() != n_chunks:
        return array
    if not filters:
        _check_sizes(array)
    return ChunkReader(array, filters)


def _check_sizes(dataset: h5py.Dataset) -> None:
    """Raise unless each chunk has the bytes of its values.

    HDF5 copies as many as the file says that there are, whatever the room.
    """
    n_bytes = dataset.chunks[0] * dataset.dtype.itemsize
    wrong = dataset.id.chunk_iter(lambda chunk: chunk if chunk.size != n_bytes else None)
    if wrong is not None:
        number = wrong.chunk_offset[0] // dataset.chunks[0]
        raise OSError(f"chunk {number} has {wrong.size} bytes, wanted {n_bytes}")


def _fill(target: np.ndarray, values: np.ndarray) -> None:
    if len(values) != len(target):
        raise ValueError(f"it has {len(values)} bytes, wanted {len(target)}")
    target[:] = values


def _inflate(packed: np.ndarray, values: np.ndarray, item_bytes: int) -> None:
    # Twice as fast as zlib.
    unpacked = isal_zlib.decompress(packed.data, bufsize=len(values))
    _fill(values, np.frombuffer(unpacked, np.uint8))


def _decode_lzf(packed: np.ndarray, values: np.ndarray, item_bytes: int) -> None:
    unpack_lzf(packed, values)


def _unshuffle(packed: np.ndarray, values: np.ndarray, item_bytes: int) -> None:
    """Put the bytes of each value side by side again: the first of all come first, and so on."""
    if len(packed) != len(values):
        raise ValueError(f"it has {len(packed)} bytes, wanted {len(values)}")
    values.reshape(-1, item_bytes)[:] = packed.reshape(item_bytes, -1).T


_UNPACK = {_DEFLATE: _inflate, _SHUFFLE: _unshuffle, _LZF: _decode_lzf}
