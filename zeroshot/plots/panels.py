"""Colours, and functions that draw arrays into Matplotlib axes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import Figure

from zeroshot.confidence.reliability import ReliabilityBins

# Paul Tol's muted scheme, which is safe for colour-blind readers, then Matplotlib's large palettes.
PALETTE = (
    *("#332288", "#CC6677", "#DDCC77", "#117733", "#88CCEE"),
    *("#AA4499", "#44AA99", "#882255", "#999933", "#661100"),
    *(to_hex(colormaps[scheme](row)) for scheme in ("tab20", "tab20b") for row in range(20)),
)
REST_COLOUR = "#D0D0D0"
SEQUENTIAL = "viridis"
INK = "#1F2933"
_NAME_LENGTH = 56


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches, which needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def largest(values: np.ndarray, n: int) -> list[str]:
    """Return the n most frequent values, most frequent first, ties by name."""
    names, sizes = np.unique(values.astype(str), return_counts=True)
    return [str(name) for name in names[np.argsort(-sizes, kind="stable")[:n]]]


def label_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name; the first names get the most distinct colours."""
    return {name: PALETTE[row % len(PALETTE)] for row, name in enumerate(names)}


def shorten(name: str, length: int = _NAME_LENGTH) -> str:
    """Truncate a long name.

    >>> shorten("naive thymus-derived CD4-positive, alpha-beta T cell", 20)
    'naive thymus-derive…'
    """
    return name if len(name) <= length else name[: length - 1] + "…"


def point_size(n_cells: int) -> float:
    """Return the area of a point, in square points, for a plot of `n_cells`."""
    return float(np.clip(20_000 / n_cells, 1, 16))


def draw_labels(
    axes: Axes, coordinates: np.ndarray, values: np.ndarray, colours: Mapping[str, str]
) -> None:
    """Draw each cell in the colour of its label, or in grey without one.

    Parameters
    ----------
    axes: axes to draw into
    coordinates: coordinates of each cell, shape (n_cells, 2)
    values: label of each cell, shape (n_cells,)
    colours: colour by label
    """
    point_colours = [colours.get(value, REST_COLOUR) for value in values]
    # Random order, so that no label hides another; grey cells first.
    order = np.random.default_rng(0).permutation(len(values))
    order = order[np.argsort(np.isin(values[order], list(colours)), kind="stable")]
    axes.scatter(
        coordinates[order, 0],
        coordinates[order, 1],
        s=point_size(len(values)),
        c=to_rgba_array(point_colours)[order],
        linewidths=0,
    )
    _style_axes(axes)


def draw_values(
    axes: Axes,
    coordinates: np.ndarray,
    values: np.ndarray,
    *,
    title: str,
    limits: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Draw each cell coloured by a number, with a colour bar; NaN is drawn as the lowest value."""
    low, high = limits
    values = np.nan_to_num(values, nan=low)
    order = np.argsort(-values, kind="stable")  # low values on top
    points = axes.scatter(
        coordinates[order, 0],
        coordinates[order, 1],
        s=point_size(len(values)),
        c=values[order],
        cmap=SEQUENTIAL,
        vmin=low,
        vmax=high,
        linewidths=0,
    )
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = beyond.get((bool(values.min() < low), bool(values.max() > high)), "neither")
    axes.figure.colorbar(points, ax=axes, shrink=0.7, label=title, extend=extend)
    _style_axes(axes)


def _style_axes(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(axes: Axes, values: np.ndarray, colours: Mapping[str, str]) -> None:
    """Add a legend of labels with cell counts below the axes."""
    rest = ~np.isin(values, list(colours))
    entries = [
        (f"{shorten(name)} ({int(np.sum(values == name)):,})", colour)
        for name, colour in colours.items()
    ]
    if rest.any():
        n_types = len(np.unique(values[rest].astype(str)))
        entries.append((f"{n_types} other types ({int(rest.sum()):,})", REST_COLOUR))
    for name, colour in entries:
        axes.scatter([], [], s=16, color=colour, linewidths=0, label=name)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, -0.05), frameon=False, fontsize=10, markerscale=2
    )


def draw_reliability(axes: Axes, bins: ReliabilityBins) -> None:
    """Draw accuracy against confidence; larger points have more cells."""
    share = bins.n_cells / bins.n_cells.sum()
    axes.plot([0, 1], [0, 1], color="#7B8794", linewidth=1, linestyle="--", label="exact")
    axes.plot(bins.confidence, bins.accuracy, color=PALETTE[0], linewidth=1.2)
    axes.scatter(bins.confidence, bins.accuracy, s=12 + 160 * share, color=PALETTE[0], zorder=3)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="fraction of calls right")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)


def draw_risk(
    axes: Axes, coverage: np.ndarray, risk: np.ndarray, thresholds: np.ndarray, *, marked: int
) -> None:
    """Draw the fraction of calls that are wrong against the fraction of cells called.

    Parameters
    ----------
    axes: axes to draw into
    coverage, risk: values at each threshold, shape (n_thresholds,)
    thresholds: confidence thresholds; some label their points
    marked: index of the threshold to highlight
    """
    axes.plot(coverage, risk, color=PALETTE[0], linewidth=1.2, marker="o", markersize=4)
    for number, (x, y, each) in enumerate(zip(coverage, risk, thresholds, strict=True)):
        is_marked = number == marked
        if is_marked:
            axes.scatter([x], [y], s=90, facecolors="none", edgecolors=PALETTE[7], linewidths=2)
        if is_marked or number % 2 == 0:
            axes.annotate(
                *(f"{each:g}", (x, y)),
                xytext=(-8, 1),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color=PALETTE[7] if is_marked else INK,
            )
    axes.set(
        xlim=(0, 1.04),
        ylim=(0, max(0.2, 1.2 * float(np.max(risk)))),
        xlabel="fraction of cells called",
        ylabel="fraction of calls wrong",
    )
    axes.spines[["top", "right"]].set_visible(False)


def draw_histogram(axes: Axes, values: np.ndarray, *, title: str, mark: float | None) -> None:
    """Draw a histogram over at least 0 to 1, with a dashed line at `mark`."""
    ends = (min(0.0, float(values.min())), max(1.0, float(values.max())))
    axes.hist(values, bins=40, range=ends, color=PALETTE[6])
    if mark is not None:
        axes.axvline(mark, color=PALETTE[7], linewidth=1.5, linestyle="--")
    axes.set(xlabel=title, ylabel="cells")
    axes.spines[["top", "right"]].set_visible(False)


def draw_confusion(axes: Axes, table: pd.DataFrame) -> None:
    """Draw cell counts by label (rows) and call (columns), normalised by row."""
    shares = table.to_numpy() / np.maximum(table.to_numpy().sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*np.nonzero(shares >= 0.01), strict=True):
        share = shares[row, column]
        axes.text(
            *(column, row, f"{share:.0%}"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 0.55 else INK,
        )
    columns, rows = table.columns.astype(str), table.index.astype(str)
    axes.set_xticks(
        range(len(columns)), [shorten(name, 40) for name in columns], rotation=40, ha="right"
    )
    axes.set_yticks(range(len(rows)), [shorten(name, 40) for name in rows])
    axes.tick_params(labelsize=9, length=0)
    axes.set(xlabel="called", ylabel="label in the file")


def draw_composition(axes: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Draw each row of a table of cell counts as a stacked bar of fractions."""
    shares = table.div(table.sum(axis=1), axis=0)
    left = np.zeros(len(shares))
    for name in shares.columns:
        values = shares[name].to_numpy()
        axes.barh(range(len(shares)), values, left=left, color=colours.get(name, REST_COLOUR))
        left += values
    axes.set_yticks(range(len(shares)), shares.index.astype(str))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="fraction of cells")
    axes.spines[["top", "right"]].set_visible(False)
