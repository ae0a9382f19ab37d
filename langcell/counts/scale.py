"""Scale of matrix values (counts, linear, log1p, log2, ranks), and how to make them linear."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy import sparse

Scale = Literal["counts", "linear", "log1p", "log2", "ranks"]
Transform = Literal["none", "expm1", "exp2m1"]
TRANSFORMS: dict[str, Transform] = {
    "counts": "none",
    "linear": "none",
    "log1p": "expm1",
    "log2": "exp2m1",
    "ranks": "none",
}


def checked_scale(name: str) -> Scale:
    """Return the scale with this name.

    Raises
    ------
    ValueError
        If there is no such scale.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"unknown scale {name!r}; must be one of {', '.join(TRANSFORMS)}")
    return cast(Scale, name)


# log2 of a million is 19.9: no logarithm of counts, CPM or TPM exceeds it; linear values do.
_LARGEST_LOGARITHM = 20.0
# Above this multiple, single precision cannot tell a multiple from a non-multiple.
_LARGEST_MULTIPLE = 40.0


@dataclass(frozen=True, kw_only=True)
class ValueSummary:
    """Properties of a sample of matrix values."""

    is_integer: bool
    is_negative: bool
    is_finite: bool

    @property
    def is_counts(self) -> bool:
        """Tell whether the values may be raw counts."""
        return self.is_integer and self.is_finite and not self.is_negative

    def __str__(self) -> str:
        if not self.is_finite:
            return "holds NaN or infinite values"
        if self.is_negative:
            return "holds negative values (scaled)"
        return "holds counts" if self.is_integer else "holds non-integer values"


def summarise_values(values: np.ndarray) -> ValueSummary:
    """Summarise a sample of values, shape (n_values,)."""
    values = np.asarray(values, dtype=np.float64)
    finite = bool(np.isfinite(values).all())
    return ValueSummary(
        is_integer=finite and bool((values == np.rint(values)).all()),
        is_negative=bool((values < 0).any()),
        is_finite=finite,
    )


def guess_transform(rows: sparse.csr_matrix) -> Transform:
    """Guess from some cells the transform that makes the values linear.

    On the linear scale, the normalised counts of a cell are multiples of the value of one count.
    Row sums are no help, since a file may hold a subset of the genes. If no transform gives
    multiples (bulk-like data, rounded values), the largest value decides.
    """
    inverse: dict[Transform, Callable[[np.ndarray], np.ndarray]] = {
        "expm1": np.expm1,
        "exp2m1": lambda values: np.exp2(values) - 1.0,
        "none": lambda values: values,
    }
    largest = float(rows.data.max(initial=0.0))
    if largest > _LARGEST_LOGARITHM:
        return "none"
    for transform, make_linear in inverse.items():
        if _share_of_multiples(rows, make_linear) > 0.9:
            return transform
    return "expm1"


def _share_of_multiples(
    rows: sparse.csr_matrix, make_linear: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Return the share of values that are integer multiples of the smallest value of their cell."""
    n_multiples = n_values = 0
    for number in range(rows.shape[0]):
        values = rows.data[rows.indptr[number] : rows.indptr[number + 1]]
        linear = make_linear(values[values > 0].astype(np.float64))
        if len(linear) == 0:
            continue
        units = linear / linear.min()
        units = units[(units > 1.01) & (units < _LARGEST_MULTIPLE)]
        n_values += len(units)
        n_multiples += int(np.count_nonzero(np.abs(units - np.rint(units)) < 0.01))
    return n_multiples / n_values if n_values else 0.0


def make_linear(values: np.ndarray, transform: Transform) -> np.ndarray:
    """Undo a logarithm; return float64, since float32 is exact only up to 16 million."""
    if transform == "expm1":
        return np.expm1(values.astype(np.float64))
    if transform == "exp2m1":
        return np.exp2(values.astype(np.float64)) - 1.0
    return values
