"""Plot an annotated AnnData, with the interface of scanpy: `plots.umap(adata, ...)`.

Each function returns a Matplotlib figure. It draws into `ax` if given, and writes the figure to
`save` if given; the suffix (.png, .svg, .pdf) sets the format. For a MuData, `modality` says which
modality to plot.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from langcell.counts.modality import modality_of
from langcell.counts.obs_columns import read_obs_column
from langcell.runtime.keywords import public
from langcell.runtime.output_file import replaced_file
from ontology.graph import Ontology
from zeroshot.confidence.reliability import reliability_bins
from zeroshot.labels.agreement import confusion as count_confusion
from zeroshot.labels.agreement import is_true_call, named_truth, resolve_truth
from zeroshot.plots.panels import (
    add_legend,
    draw_composition,
    draw_confusion,
    draw_labels,
    draw_reliability,
    draw_values,
    label_colours,
    largest,
    new_figure,
)
from zeroshot.results.annotated_file import open_annotated
from zeroshot.results.annotations import Slots
from zeroshot.results.called_cells import CalledCells, read_cells

if TYPE_CHECKING:
    from mudata import MuData

_REST = "other types"


@public
def umap(
    adata: "AnnData | MuData",
    color: str | Sequence[str] | None = None,
    *,
    title: str | Sequence[str] | None = None,
    basis: str = "X_umap",
    key_added: str = "langcell",
    modality: str | None = None,
    max_labels: int = 12,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Plot cells on a UMAP or another embedding, one panel per obs column.

    A label has the same colour in all panels.

    Parameters
    ----------
    adata: AnnData with an embedding in obsm
    color: obs columns with labels, or with numbers from 0 to 1; the calls by default
    title: title of each panel; the column names by default
    basis: entry of obsm; its first two columns are plotted
    key_added: prefix of the results in obs, obsm and uns
    modality: modality of a MuData that was annotated
    max_labels: number of most frequent labels that get a colour; the rest are grey
    ax: axes for a single panel
    save: file to write

    Raises
    ------
    ValueError
        If the embedding or a column is missing, or `ax` is given for several panels.
    """
    adata = modality_of(adata, modality)
    if basis not in adata.obsm:
        raise ValueError(
            f"no embedding {basis!r} in obsm; it has {', '.join(adata.obsm) or 'none'}; compute one "
            "with scanpy.pp.neighbors(adata, use_rep='X_langcell') and scanpy.tl.umap(adata)"
        )
    columns = _as_list(color) or [_call_column(adata, key_added)]
    titles = _as_list(title) or columns
    if len(titles) != len(columns) or (ax is not None and len(columns) > 1):
        raise ValueError(
            f"pass one title per column, and only one column with ax; got {len(columns)} columns, "
            f"{len(titles)} titles{' and ax' if ax is not None else ''}"
        )
    coordinates = np.asarray(adata.obsm[basis])[:, :2]
    panels = {name: _values(adata, name) for name in columns}
    shown = {
        name: largest(values, max_labels)
        for name, values in panels.items()
        if values.dtype == object
    }
    colours = label_colours(list(dict.fromkeys(x for names in shown.values() for x in names)))
    figure, axes = _axes(ax, len(columns))
    for each, heading, (name, values) in zip(axes, titles, panels.items(), strict=True):
        if name in shown:
            chosen = {label: colours[label] for label in shown[name]}
            draw_labels(each, coordinates, values, chosen)
            add_legend(each, values, chosen)
        else:
            draw_values(each, coordinates, values, title=heading)
        each.set_title(heading, fontsize=12)
    return _saved(figure, save)


@public
def confusion(
    adata: "AnnData | MuData",
    truth: str,
    *,
    key_added: str = "langcell",
    modality: str | None = None,
    max_calls: int = 20,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Plot the confusion matrix of the labels in `obs[truth]` and the calls, normalised by row.

    Calls other than the `max_calls` most frequent are merged into one column.
    """
    adata = modality_of(adata, modality)
    cells = _cells(adata, key_added)
    ontology = Ontology.bundled()
    table = count_confusion(
        named_truth(read_obs_column(adata, truth), truth, ontology), cells.labels, ontology
    )
    rest = table.iloc[:, max_calls:].sum(axis=1)
    table = table.iloc[:, :max_calls]
    if rest.any():
        table[_REST] = rest
    figure, axes = _axes(ax, 1, (3.5 + 0.45 * table.shape[1], 3.2 + 0.34 * table.shape[0]))
    draw_confusion(axes[0], table)
    return _saved(figure, save)


@public
def composition(
    adata: "AnnData | MuData",
    groupby: str,
    *,
    key_added: str = "langcell",
    modality: str | None = None,
    max_labels: int = 12,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Plot the fraction of cells of each called type, per group in `obs[groupby]` (e.g. donor)."""
    adata = modality_of(adata, modality)
    labels = _cells(adata, key_added).labels
    shown = largest(labels, max_labels)
    called = np.where(np.isin(labels, shown), labels, _REST)
    table = pd.crosstab(read_obs_column(adata, groupby), called)
    table = table[[name for name in [*shown, _REST] if name in table]]
    figure, axes = _axes(ax, 1, (9, 2 + 0.4 * len(table)))
    colours = label_colours(shown)
    draw_composition(axes[0], table, colours)
    axes[0].set_ylabel(groupby)
    for name in table.columns:
        n_cells = int(table[name].sum())
        axes[0].bar(0, 0, color=colours.get(name, "#D0D0D0"), label=f"{name} ({n_cells:,})")
    axes[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    return _saved(figure, save)


@public
def reliability(
    adata: "AnnData | MuData",
    truth: str,
    *,
    key_added: str = "langcell",
    modality: str | None = None,
    n_bins: int = 10,
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Plot a reliability diagram: accuracy of the calls by confidence, for labels in `obs[truth]`.

    A call is right if it is the label or an ancestor of it. Unknown cells and cells without a cell
    type label are left out.

    Raises
    ------
    ValueError
        If the calls have no confidence, or no cell has both a call and a label.
    """
    adata = modality_of(adata, modality)
    cells = _cells(adata, key_added)
    if not cells.has_confidence:
        raise ValueError(f"no {key_added}_confidence in obs; annotate the AnnData again")
    ontology = Ontology.bundled()
    known = resolve_truth(read_obs_column(adata, truth), ontology)
    has_both = (known.term_ids != "") & (cells.term_ids != "")
    if not has_both.any():
        raise ValueError(f"no cell has both a call and a cell type in obs[{truth!r}]")
    is_right = is_true_call(known.term_ids[has_both], cells.term_ids[has_both], ontology)
    bins = reliability_bins(cells.confidence[has_both], is_right, n_bins=n_bins)
    figure, axes = _axes(ax, 1, (4.6, 4.6))
    draw_reliability(axes[0], bins)
    axes[0].set_title(f"expected calibration error {bins.expected_error:.3f}", fontsize=10)
    return _saved(figure, save)


def _cells(adata: AnnData, key_added: str) -> CalledCells:
    with open_annotated(adata) as source:
        return read_cells(source, Slots(key=key_added))


def _call_column(adata: AnnData, key_added: str) -> str:
    called = f"{key_added}_label"
    return called if called in adata.obs else Slots(key=key_added).leaf_label


def _as_list(given: str | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


def _values(adata: AnnData, name: str) -> np.ndarray:
    """Return a float column as float64, any other column as strings."""
    if name in adata.obs and pd.api.types.is_float_dtype(adata.obs[name]):
        return adata.obs[name].to_numpy(dtype=np.float64)
    return read_obs_column(adata, name)


def _axes(
    ax: Axes | None, n_panels: int, size: tuple[float, float] | None = None
) -> tuple[Figure, Sequence[Axes]]:
    if ax is not None:
        return ax.get_figure(root=True), [ax]  # type: ignore[return-value]
    figure = new_figure(*(size or (5.2 * n_panels, 7.6)))
    return figure, list(np.atleast_1d(figure.subplots(1, n_panels)))


def _saved(figure: Figure, save: str | Path | None) -> Figure:
    if save is not None:
        target = Path(save)
        with replaced_file(target) as temporary:
            figure.savefig(temporary, format=target.suffix.lstrip(".") or "png", dpi=150)
    return figure
