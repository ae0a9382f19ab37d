"""Pickles of plain values, read without running what a pickle may ask for.

A pickle can call any function when it is read. Here it can make dicts, lists, strings and numbers,
those of numpy included, and nothing else: no name that it gives is ever imported.
"""

import io
import pickle
import re
from typing import Any

import numpy as np

_NUMBER = re.compile(r"[<>=|]?[biuf][1248]")


class _NumberType:
    """Stands for the dtype of one number."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not _NUMBER.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds a numpy type {name!r}, which is no number")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _number(kind: _NumberType, content: bytes) -> int | float:
    value: int | float = np.frombuffer(content, kind.dtype, count=1).item()
    return value


def _encoded(text: str, encoding: str) -> bytes:
    # How old protocols write bytes.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes as {encoding!r}")
    return text.encode(encoding)


_ALLOWED = {
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("_codecs", "encode"): _encoded,
}


class _PlainUnpickler(pickle.Unpickler):
    """Makes plain values, and refuses whatever else a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_plain_pickle(content: bytes) -> Any:
    """Return the dicts, lists, strings and numbers that a pickle holds.

    Raises
    ------
    ValueError
        If it is damaged or asks for anything else; the message says for what.

    Examples
    --------
    >>> read_plain_pickle(pickle.dumps({"ENSG00000010610": np.float64(1.5)}))
    {'ENSG00000010610': 1.5}
    """
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no pickle of plain values: {reason}") from error
