"""Decompress LZF (M. Lehmann, LibLZF), the fast compression of h5py."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from langcell.runtime.compiled import compiled

_ONE, _TWO, _THREE, _EIGHT = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(8)
_EXTENDED = np.uint64(7)  # this length means that the next byte is added to it


def _eight_bytes(
    context: Any, target: Any, place: Any, source: Any, at: Any
) -> tuple[Any, Callable[..., Any]]:

    if not target.layout == source.layout == "C":
        raise TypingError("arrays must be C-contiguous")

    def generate(target_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(number: int) -> Any:
            array = target_context.make_array(signature.args[number])
            data = array(target_context, builder, arguments[number]).data
            byte = builder.gep(data, [arguments[number + 1]])
            return builder.bitcast(byte, ir.IntType(64).as_pointer())

        builder.store(builder.load(pointer(2), align=1), pointer(0), align=1)
        return target_context.get_dummy_value()

    return types.void(target, place, source, at), generate


# Copies eight bytes in one unaligned load and store. Most copies are shorter; the next copy
# overwrites the surplus bytes.
_copy_eight: Any = intrinsic(_eight_bytes)


@compiled
def _unpack(packed: np.ndarray, values: np.ndarray) -> bool:
    """Decompress `packed` into `values`, both uint8; return False if the data is damaged.

    A control byte c < 32 precedes c + 1 literal bytes. Otherwise it is a back-reference: its upper
    three bits are the length - 2, its lower five bits and the next byte the distance - 1. All
    integers are unsigned, because numba checks signed indices for being negative, which halves
    the speed.
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
            if length <= _EIGHT and at + _EIGHT <= n_packed and done + _EIGHT <= n_values:
                _copy_eight(values, done, packed, at)
            else:
                for place in range(length):
                    values[done + place] = packed[at + place]
            at += length
            done += length
            continue
        length = control >> np.uint64(5)
        if length == _EXTENDED and at < n_packed:
            length += np.uint64(packed[at])
            at += _ONE
        if at >= n_packed:
            return False
        back = ((control & np.uint64(31)) << _EIGHT) + np.uint64(packed[at]) + _ONE
        at += _ONE
        length += _TWO
        stop = done + length
        if back > done or stop > n_values:
            return False
        source = done - back
        if (
            length == _THREE
        ):  # upper bytes of an index: an 8-byte load would stall on the last store
            values[done] = values[source]
            values[done + _ONE] = values[source + _ONE]
            values[done + _TWO] = values[source + _TWO]
            done = stop
            continue
        if (length <= back or back >= _EIGHT) and stop + _EIGHT <= n_values:
            while done < stop:
                _copy_eight(values, done, values, source)
                done += _EIGHT
                source += _EIGHT
            done = stop
        while done < stop:  # overlapping copy: the bytes available to copy double at each step
            step = min(stop - done, done - source)
            for place in range(step):
                values[done + place] = values[source + place]
            done += step
    return done == n_values


def unpack_lzf(packed: np.ndarray, values: np.ndarray) -> None:
    """Decompress `packed` into `values`.

    Parameters
    ----------
    packed
        uint8, without a header, as h5py stores a chunk.
    values
        uint8 output of the decompressed size.

    Raises
    ------
    ValueError
        If the data is damaged.
    """
    if not _unpack(packed, values):
        raise ValueError("LZF data is damaged")
