"""Read pickles of plain values without running their code.

A pickle can call any function when it is loaded. This reader only builds dicts, lists, strings and
numbers (NumPy's included) and imports nothing that the pickle names.
"""

import io
import pickle
import re
from typing import Any

import numpy as np

_NUMBER = re.compile(r"[<>=|]?[biuf][1248]")


class _NumberType:
    """Stand-in for the dtype of one number."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not _NUMBER.fullmatch(name):
            raise pickle.UnpicklingError(f"it holds a NumPy type {name!r} that is not a number")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


def _number(kind: _NumberType, content: bytes) -> int | float:
    value: int | float = np.frombuffer(content, kind.dtype, count=1).item()
    return value


def _encoded(text: str, encoding: str) -> bytes:
    # Old pickle protocols write bytes in this way.
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
    """Build plain values and refuse everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_plain_pickle(content: bytes) -> Any:
    """Return the dicts, lists, strings and numbers that a pickle holds.

    Raises
    ------
    ValueError
        If it is damaged or asks for any other type or function; the message names it.

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
        raise ValueError(f"not a pickle of plain values: {reason}") from error
