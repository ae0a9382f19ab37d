"""Encode the figures of a report as data URIs, so that the report is a single file."""

import base64
import io
from dataclasses import dataclass
from pathlib import PurePath

from matplotlib import rc_context
from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Key:
    """An entry of a legend."""

    number: int | None  # on the map
    name: str
    colour: str
    n_cells: int


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption and legend.

    Attributes
    ----------
    source: data URI
    title: heading of the figure
    alt: text description for screen readers
    caption: text below the figure
    keys: entries of the legend
    """

    source: str
    title: str
    alt: str
    caption: str = ""
    keys: tuple[Key, ...] = ()


def png_uri(figure: Figure) -> str:
    """Return a figure as a PNG data URI."""
    return _uri(figure, "png", dpi=110)


def svg_uri(figure: Figure) -> str:
    """Return a figure as an SVG data URI."""
    return _uri(figure, "svg+xml", dpi=72)


def _uri(figure: Figure, kind: str, *, dpi: int) -> str:
    buffer = io.BytesIO()
    form = PurePath(kind).name.partition("+")[0]
    # No date and fixed SVG ids, so that reports are reproducible byte for byte.
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "langcell"}):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
