"""Unpacks LZF (M. Lehmann, LibLZF), the fast compression of h5py."""

import numpy as np

from langcell.rank_kernel import compiled

_ONE = np.uint64(1)
_SHORT = np.uint64(7)  # the length that says that the next byte belongs to it


@compiled
def _unpack(packed: np.ndarray, values: np.ndarray) -> bool:
    """Fill `values` from `packed`, both bytes; tell whether that came out even.

    A control byte below 32 is followed by so many bytes and one that stand for themselves. Else its
    upper three bits are a length less 2, its lower five and the next byte how far back the same
    bytes are, less 1. All numbers are unsigned: with signed ones each step asks which end they
    count from, at half the speed.
    """
    n_packed, n_values = np.uint64(len(packed)), np.uint64(len(values))
    at, done = np.uint64(0), np.uint64(0)
    while at < n_packed:
        control = np.uint64(packed[at])
        at += _ONE
        if control < np.uint64(32):
            length = control + _ONE
            if at + length > n_packed or done + length > n_values:
                return False
            for place in range(length):
                values[done + place] = packed[at + place]
            at += length
            done += length
            continue
        length = control >> np.uint64(5)
        if length == _SHORT and at < n_packed:
            length += np.uint64(packed[at])
            at += _ONE
        if at >= n_packed:
            return False
        back = ((control & np.uint64(31)) << np.uint64(8)) + np.uint64(packed[at]) + _ONE
        at += _ONE
        stop = done + length + np.uint64(2)
        if back > done or stop > n_values:
            return False
        source = done - back
        while done < stop:  # what is copied lies there to be copied with the rest, twice as much
            step = min(stop - done, done - source)
            for place in range(step):
                values[done + place] = values[source + place]
            done += step
    return done == n_values


def unpack_lzf(packed: np.ndarray, values: np.ndarray) -> None:
    """Fill `values` with the bytes that were packed.

    Parameters
    ----------
    packed
        uint8, without a header, as h5py stores a chunk.
    values
        uint8, as many as there were bytes.

    Raises
    ------
    ValueError
        If what is packed is damaged.
    """
    if not _unpack(packed, values):
        raise ValueError("LZF data is damaged")
