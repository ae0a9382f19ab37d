"""Figures of cells on a two-dimensional map."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from langcell.output_file import replaced_file

# Paul Tol's muted scheme, apart from each other also to colour-blind readers, then what Matplotlib
# has for many groups.
_COLOURS = (
    *("#332288", "#CC6677", "#DDCC77", "#117733", "#88CCEE"),
    *("#AA4499", "#44AA99", "#882255", "#999933", "#661100"),
    *(to_hex(colormaps[scheme](row)) for scheme in ("tab20", "tab20b") for row in range(20)),
)
_REST_COLOUR = "#D0D0D0"
_NAME_LENGTH = 56


def plot_labels(
    coordinates: np.ndarray,
    panels: Mapping[str, Sequence[str]],
    path: Path,
    *,
    max_labels: int = 12,
) -> None:
    """Draw the same map once for each set of labels; a label has one colour in all panels.

    Parameters
    ----------
    coordinates: place of each cell, shape (n_cells, 2)
    panels: title of each panel, and a label for each cell
    path: PNG to be written
    max_labels: labels of a panel that get a colour, those with most cells; the rest are grey
    """
    labels = {title: np.asarray(values).astype(str) for title, values in panels.items()}
    shown = {title: _largest(values, max_labels) for title, values in labels.items()}
    names = list(dict.fromkeys(name for panel in shown.values() for name in panel))
    colours = {name: _COLOURS[row % len(_COLOURS)] for row, name in enumerate(names)}
    figure = Figure(figsize=(5.2 * len(panels), 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, values) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), labels.items(), strict=True
    ):
        _draw(axes, coordinates, values, {name: colours[name] for name in shown[title]})
        axes.set_title(title, fontsize=12)
    with replaced_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _largest(values: np.ndarray, n: int) -> list[str]:
    names, sizes = np.unique(values, return_counts=True)
    return [str(name) for name in names[np.argsort(-sizes, kind="stable")[:n]]]


def _draw(axes: Axes, coordinates: np.ndarray, values: np.ndarray, colours: dict[str, str]) -> None:
    size = float(np.clip(20_000 / len(values), 1, 16))
    groups = [(name, values == name, colour) for name, colour in colours.items()]
    rest = ~np.isin(values, list(colours))
    if rest.any():
        groups.append((f"{len(np.unique(values[rest]))} other types", rest, _REST_COLOUR))
    for name, cells, colour in groups:
        label = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
        axes.scatter(
            coordinates[cells, 0],
            coordinates[cells, 1],
            s=size,
            color=colour,
            linewidths=0,
            label=f"{label} ({int(cells.sum()):,})",
        )
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, -0.05), frameon=False, fontsize=10, markerscale=2
    )
