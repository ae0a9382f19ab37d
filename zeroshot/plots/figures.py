"""Figures of an annotated AnnData, in scanpy's manner: `plots.umap(adata, ...)`.

Each returns a Matplotlib figure, draws into `ax` instead where one is given, and writes a file
where `save` names one; its suffix (.png, .svg, .pdf) says the format. Of a MuData the modality that
is named is drawn.
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
    """Draw the cells of a map once for each column of obs; a label has one colour in all panels.

    Parameters
    ----------
    adata: with a map in obsm
    color: columns of obs, of labels or of numbers from 0 to 1; the calls by default
    title: of each panel; the columns' names by default
    basis: entry of obsm with the map; its first two columns are drawn
    key_added: what the names of the results begin with
    modality: of a MuData, the one that was annotated
    max_labels: labels of a panel that get a colour, those with most cells; the rest are grey
    ax: to draw a single panel into
    save: file to be written

    Raises
    ------
    ValueError
        If there is no such map or column, or `ax` is given for several panels.
    """
    adata = modality_of(adata, modality)
    if basis not in adata.obsm:
        raise ValueError(
            f"the AnnData has no map {basis!r} in obsm (it has {', '.join(adata.obsm) or 'none'}); "
            "make one with scanpy.pp.neighbors(adata, use_rep='X_langcell') and scanpy.tl.umap(adata)"
        )
    columns = _listed(color) or [_call_column(adata, key_added)]
    titles = _listed(title) or columns
    if len(titles) != len(columns) or (ax is not None and len(columns) > 1):
        raise ValueError(
            f"one title a panel and one panel for ax are wanted, got {len(columns)} columns, "
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
    """Draw how the cells of each label in `obs[truth]` were called, as shares of the label.

    Calls beyond the `max_calls` most frequent share one column.
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
    """Draw which types the cells of each group in `obs[groupby]` were called (donor, condition)."""
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
    """Draw how often calls are right against their confidence, by the labels in `obs[truth]`.

    A call is right if it is the label's type or broader than it; cells called unknown and cells
    whose label is no cell type are left out.

    Raises
    ------
    ValueError
        If the calls have no confidence or no cell can be judged.
    """
    adata = modality_of(adata, modality)
    cells = _cells(adata, key_added)
    if not cells.has_confidence:
        raise ValueError(f"the AnnData has no {key_added}_confidence in obs; annotate it again")
    ontology = Ontology.bundled()
    known = resolve_truth(read_obs_column(adata, truth), ontology)
    judged = (known.term_ids != "") & (cells.term_ids != "")
    if not judged.any():
        raise ValueError(f"no cell has both a call and a cell type in obs[{truth!r}]")
    is_right = is_true_call(known.term_ids[judged], cells.term_ids[judged], ontology)
    bins = reliability_bins(cells.confidence[judged], is_right, n_bins=n_bins)
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


def _listed(given: str | Sequence[str] | None) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


def _values(adata: AnnData, name: str) -> np.ndarray:
    """Return a column of numbers as float64, any other as text."""
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
