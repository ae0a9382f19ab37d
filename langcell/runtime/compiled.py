"""Settings with which numba compiles our kernels."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with a cache on disk where numba finds a place to write, else without.

    Divisions are those of the processor: to ask each divisor whether it is zero costs as much.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
