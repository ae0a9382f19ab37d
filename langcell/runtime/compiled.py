"""Numba settings of the compiled kernels."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with numba, cached on disk where a cache folder is writable.

    Division by zero is not checked, as in NumPy: the check takes as long as the division.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
