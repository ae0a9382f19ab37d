"""Baselines by name, and the extras that some of them need."""

from importlib.util import find_spec

from benchmarks.baselines import (
    celltypist_baseline,
    logistic,
    marker_overlap,
    nearest,
    singler_baseline,
)

_MODULES = (nearest, logistic, marker_overlap, celltypist_baseline, singler_baseline)
METHODS = {each.METHOD.name: each.METHOD for each in _MODULES}
# `majority` is not a method: it reads no cell.
NAMES = ("majority", *METHODS)
_EXTRAS = ("celltypist", "singler")


def missing_extra(name: str) -> str | None:
    """Return the extra of langcell that a baseline needs, if it is not installed."""
    return name if name in _EXTRAS and find_spec(name) is None else None
