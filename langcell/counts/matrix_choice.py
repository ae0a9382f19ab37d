"""Choose the matrix of a source that holds the counts."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from langcell.counts.row_readers import RowReader, spread
from langcell.counts.scale import (
    TRANSFORMS,
    Scale,
    Transform,
    ValueSummary,
    guess_transform,
    summarise_values,
)
from langcell.counts.source import CountSource
from langcell.runtime.parameter_names import option

_SEARCHED = ("raw.X", "X", "layers/counts")
# layers/counts first: non-integer values there are corrected counts, not normalised ones.
_SEARCHED_NORMALIZED = ("layers/counts", "raw.X", "X")
_SAMPLE_ROWS = 50


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen matrix and how to read its values."""

    name: str
    rows: RowReader
    transform: Transform = "none"
    must_be_integer: bool = False
    is_normalized: bool = False


def choose_matrix(
    source: CountSource, *, layer: str | None, allow_normalized: bool, scale: Scale | None
) -> Choice:
    """Choose the matrix; the parameters are those of `langcell.counts.reader.open_counts`.

    Raises
    ------
    ValueError
        If the layer does not exist, there are no cells, or no matrix holds suitable values.
    """
    searched = _searched(source, layer)
    if scale is not None:
        if scale not in TRANSFORMS:
            raise ValueError(f"scale must be one of {', '.join(TRANSFORMS)}; got {scale!r}")
        name = "X" if layer is None and "X" in source.slots else searched[0]
        return Choice(
            name=name,
            rows=_open(source, name),
            transform=TRANSFORMS[scale],
            is_normalized=scale != "counts",
        )
    rows = {name: _open(source, name) for name in searched}
    summaries = {name: summarise_values(rows[name].sample_values()) for name in searched}
    for name in searched:
        if summaries[name].is_counts:
            return Choice(name=name, rows=rows[name], must_be_integer=not allow_normalized)
    usable = [
        name for name in searched if summaries[name].is_finite and not summaries[name].is_negative
    ]
    if not (allow_normalized and usable):
        raise ValueError(_no_counts(source, summaries, bool(usable)))
    name = min(usable, key=lambda name: (*_SEARCHED_NORMALIZED, name).index(name))
    transform = guess_transform(_sample_rows(rows[name]))
    return Choice(name=name, rows=rows[name], transform=transform, is_normalized=True)


def _searched(source: CountSource, layer: str | None) -> list[str]:
    """Return the names of the matrices to look at, in order."""
    if layer is None:
        searched = [name for name in _SEARCHED if name in source.slots]
        if not searched:
            raise ValueError(
                f"{source.label}: no X, raw.X or layers['counts']; pass {option('layer', 'NAME')}"
            )
        return searched
    name = layer if layer in source.slots else f"layers/{layer}"
    if name not in source.slots:
        have = ", ".join(name.removeprefix("layers/") for name in source.slots)
        raise ValueError(f"{source.label}: no layer {layer!r}; it has {have}")
    return [name]


def _open(source: CountSource, name: str) -> RowReader:
    rows = source.slots[name].open_rows()
    if 0 in rows.shape:
        raise ValueError(
            f"{source.label}: {name} has {rows.shape[0]} cells and {rows.shape[1]} genes; expected"
            " at least one of each"
        )
    return rows


def _sample_rows(rows: RowReader) -> sparse.csr_matrix:
    pieces = [
        rows.read(piece.start, min(piece.stop, rows.shape[0]))
        for piece in spread(rows.shape[0], _SAMPLE_ROWS)
    ]
    stacked = sparse.vstack(pieces, format="csr")
    stacked.data = stacked.data.astype(np.float64)
    return stacked


def _no_counts(source: CountSource, summaries: dict[str, ValueSummary], is_usable: bool) -> str:
    found = ", ".join(f"{name} {what}" for name, what in summaries.items())
    remedy = f"name the layer that holds them with {option('layer', 'NAME')}"
    if is_usable:
        remedy += f", or pass {option('allow_normalized', True)} to rank normalised values"
    else:
        remedy += ", or use the file from before scaling"
    return f"{source.label}: no raw counts: {found}; {remedy}"
