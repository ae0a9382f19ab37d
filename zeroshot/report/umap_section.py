"""UMAPs of a report: cells coloured by call, by confidence and by status of the call."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.plots.panels import (
    INK,
    PALETTE,
    REST_COLOUR,
    draw_labels,
    draw_values,
    label_colours,
    largest,
    new_figure,
)
from zeroshot.report.data_uri import Key, Picture, png_uri
from zeroshot.results.annotated_file import AnnotatedSource, read_rows
from zeroshot.results.annotations import Slots
from zeroshot.results.called_cells import ABSTAINED, BACKED_OFF, CONFIDENT, CalledCells

_STORED_CELLS = 20_000  # cells plotted from the UMAP of the file
_COMPUTED_CELLS = 5_000  # cells for which a UMAP is computed
_MIN_FOR_UMAP = 50
_LABELS_SHOWN = 12
_NUMBER_GAP = 0.05  # minimum distance of numbers, as a fraction of the extent of the plot
_STATUS = {
    CONFIDENT: ("best candidate called", PALETTE[0]),
    BACKED_OFF: ("backed off to a broader type", PALETTE[4]),
    ABSTAINED: ("unknown", PALETTE[1]),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class CellMap:
    """Rows of the plotted cells, their coordinates (n_plotted, 2), and a description of these."""

    rows: np.ndarray
    coordinates: np.ndarray
    described: str


def map_cells(source: AnnotatedSource, slots: Slots, *, seed: int) -> CellMap | None:
    """Return the UMAP of the file, or compute one from the cell features of a sample of cells.

    Return None if the file has neither.
    """
    rng = np.random.default_rng(seed)
    if "X_umap" in source.slots:
        rows = _sample(source.n_cells, _STORED_CELLS, rng)
        coordinates = read_rows(source, "X_umap", rows)[:, :2].astype(np.float64)
        is_finite = np.isfinite(coordinates).all(axis=1)
        described = "the UMAP of the file (X_umap)"
        rows, coordinates = rows[is_finite], coordinates[is_finite]
    elif slots.features in source.slots:
        rows = _sample(source.n_cells, _COMPUTED_CELLS, rng)
        coordinates, method = _project(read_rows(source, slots.features, rows), seed)
        described = f"{method} of the model's cell features ({slots.features})"
    else:
        return None
    if len(rows) < source.n_cells:
        described += f", {len(rows):,} of the {source.n_cells:,} cells, sampled at random"
    return CellMap(rows=rows, coordinates=coordinates, described=described) if len(rows) else None


def _sample(n_cells: int, max_cells: int, rng: np.random.Generator) -> np.ndarray:
    if n_cells <= max_cells:
        return np.arange(n_cells)
    return np.sort(rng.choice(n_cells, max_cells, replace=False))


def _project(features: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    if len(features) < _MIN_FOR_UMAP:
        centred = features - features.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        coordinates = np.zeros((len(features), 2))
        coordinates[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
        return coordinates, "the first two principal components (too few cells for a UMAP)"
    from umap import UMAP

    # With a seed UMAP uses one thread; n_jobs=1 avoids a warning about it.
    return UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(features), "a UMAP"


def map_pictures(cells: CalledCells, drawn: CellMap) -> list[Picture]:
    """Draw the UMAP by call, by confidence, and by status of the call."""
    pictures = [_by_call(cells, drawn), _by_certainty(cells, drawn)]
    if cells.has_confidence:
        pictures.append(_by_status(cells, drawn))
    return pictures


def _by_certainty(cells: CalledCells, drawn: CellMap) -> Picture:
    shown = cells.certainty[drawn.rows]
    figure, axes = _panel()
    if cells.has_confidence:
        in_leaf = not np.isnan(cells.leaf_confidence).all()
        if in_leaf:
            shown = cells.leaf_confidence[drawn.rows]
        draw_values(axes, drawn.coordinates, shown, title="")
        what = "of the best candidate" if in_leaf else "of the call"
        return Picture(
            source=png_uri(figure),
            title=f"By confidence {what}",
            alt=f"UMAP of the cells coloured by the confidence {what}; dark is low",
            caption="Yellow: high confidence in the best candidate. Dark: low confidence, so a broader "
            "type is called."
            if in_leaf
            else "Yellow: high confidence. Dark: low confidence, drawn on top.",
        )
    widest = max(0.05, float(np.quantile(shown, 0.98)))
    draw_values(axes, drawn.coordinates, shown, title="", limits=(0.0, widest))
    return Picture(
        source=png_uri(figure),
        title="By margin",
        alt="UMAP of the cells coloured by margin; dark is low",
        caption="Margin of the best candidate over the runner-up. Yellow: large.",
    )


def _by_call(cells: CalledCells, drawn: CellMap) -> Picture:
    called = cells.labels.astype(str)
    names = [name for name in largest(called, _LABELS_SHOWN + 1) if name != UNKNOWN]
    colours = label_colours(names[:_LABELS_SHOWN])
    figure, axes = _panel()
    values = called[drawn.rows]
    draw_labels(axes, drawn.coordinates, values, colours)
    keys = []
    positions = number_positions(drawn.coordinates, values, tuple(colours))
    for number, (name, colour) in enumerate(colours.items(), start=1):
        if name in positions:
            _number(axes, positions[name], number)
        n_cells = int(np.sum(called == name))
        keys.append(Key(number=number, name=name, colour=colour, n_cells=n_cells))
    rest = ~np.isin(called, [*colours, UNKNOWN])
    if rest.any():
        name = f"{len(np.unique(called[rest]))} other types"
        keys.append(Key(number=None, name=name, colour=REST_COLOUR, n_cells=int(rest.sum())))
    if n_unknown := int(np.sum(called == UNKNOWN)):
        keys.append(Key(number=None, name=UNKNOWN, colour=REST_COLOUR, n_cells=n_unknown))
    return Picture(
        source=png_uri(figure),
        title="By call",
        alt="UMAP of the cells coloured by their call",
        caption="Numbers mark the middle of each type.",
        keys=tuple(keys),
    )


def number_positions(
    coordinates: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Choose the position of each type's number: the coordinates of one of its cells.

    It is the cell nearest to the median of the type that does not overlap the numbers of earlier
    types, or the nearest cell if all overlap.

    Parameters
    ----------
    coordinates: coordinates of the cells, shape (n_cells, 2)
    values: type of each cell, shape (n_cells,)
    names: types in the order in which their numbers are placed; types without cells are left out
    """
    extent = np.ptp(coordinates, axis=0)
    apart = _NUMBER_GAP * np.where(extent > 0, extent, 1)
    found: dict[str, np.ndarray] = {}
    for name in names:
        own = coordinates[values == name]
        if not len(own):
            continue
        from_middle = (((own - np.median(own, axis=0)) / apart) ** 2).sum(axis=1)
        taken = np.array(list(found.values())).reshape(-1, 2)
        gaps = ((own[:, None] - taken[None]) / apart) ** 2  # (n_own, n_taken, 2)
        is_free = (gaps.sum(axis=2) >= 1).all(axis=1)
        found[name] = own[np.argmin(np.where(is_free | ~is_free.any(), from_middle, np.inf))]
    return found


def _number(axes: Axes, position: np.ndarray, number: int) -> None:
    x, y = position
    axes.text(
        *(x, y, str(number)),
        ha="center",
        va="center",
        fontsize=13,
        fontweight="bold",
        color=INK,
        path_effects=[patheffects.withStroke(linewidth=3.5, foreground="white")],
    )


def _by_status(cells: CalledCells, drawn: CellMap) -> Picture:
    status = cells.status
    figure, axes = _panel()
    words = np.array([_STATUS[each][0] for each in range(len(_STATUS))], dtype=object)
    draw_labels(axes, drawn.coordinates, words[status[drawn.rows]], dict(_STATUS.values()))
    keys = tuple(
        Key(number=None, name=name, colour=colour, n_cells=int(np.sum(status == each)))
        for each, (name, colour) in _STATUS.items()
    )
    return Picture(
        source=png_uri(figure),
        title="By status of the call",
        alt="UMAP of the cells coloured by whether the call is the best candidate, broader, or unknown",
        caption="Cells called the best candidate, a broader type, or unknown.",
        keys=keys,
    )


def _panel() -> tuple[Figure, Axes]:
    figure = new_figure(6.2, 5.4)
    return figure, figure.subplots()
