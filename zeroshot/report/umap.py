"""The map of the cells in a report: by call, by certainty, and by whether a call was made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zeroshot.confidence.backoff import UNKNOWN
from zeroshot.plots.data_uri import Key, Picture, png_uri
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
from zeroshot.results.annotated_file import AnnotatedSource, read_rows
from zeroshot.results.annotations import Slots
from zeroshot.results.called_cells import ABSTAINED, BACKED_OFF, CONFIDENT, CalledCells

_STORED_CELLS = 20_000  # drawn of a map that the file has
_COMPUTED_CELLS = 5_000  # of which a map is made
_FEWEST_FOR_UMAP = 50
_LABELS_SHOWN = 12
_NUMBER_GAP = 0.05  # least distance of numbers, as a share of the map's extent
_STATUS = {
    CONFIDENT: ("named in full", PALETTE[0]),
    BACKED_OFF: ("named broadly, where the kind is open", PALETTE[4]),
    ABSTAINED: ("left unknown", PALETTE[1]),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class CellMap:
    """Cells on a map: rows of the cells drawn, their places (n_drawn, 2), and where they are from."""

    rows: np.ndarray
    places: np.ndarray
    described: str


def map_cells(source: AnnotatedSource, slots: Slots, *, seed: int) -> CellMap | None:
    """Take the UMAP of the file, or make one of the cell features of a sample of its cells.

    None where the file has neither.
    """
    rng = np.random.default_rng(seed)
    if "X_umap" in source.slots:
        rows = _sample(source.n_cells, _STORED_CELLS, rng)
        places = read_rows(source, "X_umap", rows)[:, :2].astype(np.float64)
        held = np.isfinite(places).all(axis=1)
        described = "the UMAP that the file holds (X_umap)"
        rows, places = rows[held], places[held]
    elif slots.features in source.slots:
        rows = _sample(source.n_cells, _COMPUTED_CELLS, rng)
        places, method = _project(read_rows(source, slots.features, rows), seed)
        described = f"{method} of the model's cell features ({slots.features})"
    else:
        return None
    if len(rows) < source.n_cells:
        described += f", {len(rows):,} of the {source.n_cells:,} cells, drawn at random"
    return CellMap(rows=rows, places=places, described=described) if len(rows) else None


def _sample(n_cells: int, most: int, rng: np.random.Generator) -> np.ndarray:
    if n_cells <= most:
        return np.arange(n_cells)
    return np.sort(rng.choice(n_cells, most, replace=False))


def _project(features: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    if len(features) < _FEWEST_FOR_UMAP:
        centred = features - features.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(features), 2))
        places[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
        return places, "the first two principal components (too few cells for a UMAP)"
    from umap import UMAP

    # A seed makes UMAP use one thread; saying so keeps it from warning.
    return UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(features), "a UMAP"


def map_pictures(cells: CalledCells, drawn: CellMap) -> list[Picture]:
    """Draw the map by call, by certainty, and by whether a call was made."""
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
        draw_values(axes, drawn.places, shown, title="")
        what = "in the finest type" if in_leaf else "of the call"
        return Picture(
            source=png_uri(figure),
            title=f"By confidence {what}",
            alt=f"Map of the cells coloured by the confidence {what}; dark is low",
            caption="Yellow: sure of the best single type. Dark: in doubt, and so named broadly."
            if in_leaf
            else "Yellow: sure. Dark: in doubt. Doubtful cells are drawn on top.",
        )
    widest = max(0.05, float(np.quantile(shown, 0.98)))
    draw_values(axes, drawn.places, shown, title="", limits=(0.0, widest))
    return Picture(
        source=png_uri(figure),
        title="By margin",
        alt="Map of the cells coloured by the lead of the best type; dark is low",
        caption="Lead of the best type over the runner-up. Yellow: wide.",
    )


def _by_call(cells: CalledCells, drawn: CellMap) -> Picture:
    called = cells.labels.astype(str)
    names = [name for name in largest(called, _LABELS_SHOWN + 1) if name != UNKNOWN]
    colours = label_colours(names[:_LABELS_SHOWN])
    figure, axes = _panel()
    values = called[drawn.rows]
    draw_labels(axes, drawn.places, values, colours)
    keys = []
    spots = number_places(drawn.places, values, tuple(colours))
    for number, (name, colour) in enumerate(colours.items(), start=1):
        if name in spots:
            _number(axes, spots[name], number)
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
        alt="Map of the cells coloured by the type they were called",
        caption="A number stands where the cells of a type are densest.",
        keys=tuple(keys),
    )


def number_places(
    places: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Choose a cell of each type to write its number on.

    It is the one that is nearest to the middle of its type and apart from the numbers of types
    before it; where a type has no cell apart from them, the nearest to the middle.

    Parameters
    ----------
    places: of cells on the map, shape (n_cells, 2)
    values: types of the same cells, shape (n_cells,)
    names: types in the order in which their numbers are placed; one without cells gets no place
    """
    extent = np.ptp(places, axis=0)
    apart = _NUMBER_GAP * np.where(extent > 0, extent, 1)
    found: dict[str, np.ndarray] = {}
    for name in names:
        own = places[values == name]
        if not len(own):
            continue
        from_middle = (((own - np.median(own, axis=0)) / apart) ** 2).sum(axis=1)
        taken = np.array(list(found.values())).reshape(-1, 2)
        gaps = ((own[:, None] - taken[None]) / apart) ** 2  # (n_own, n_taken, 2)
        is_free = (gaps.sum(axis=2) >= 1).all(axis=1)
        found[name] = own[np.argmin(np.where(is_free | ~is_free.any(), from_middle, np.inf))]
    return found


def _number(axes: Axes, place: np.ndarray, number: int) -> None:
    x, y = place
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
    draw_labels(axes, drawn.places, words[status[drawn.rows]], dict(_STATUS.values()))
    keys = tuple(
        Key(number=None, name=name, colour=colour, n_cells=int(np.sum(status == each)))
        for each, (name, colour) in _STATUS.items()
    )
    return Picture(
        source=png_uri(figure),
        title="In full, broadly, or not at all",
        alt="Map of the cells coloured by whether the call is the finest type, broader, or unknown",
        caption="Where the model names the cells as finely as it can, and where it holds back.",
        keys=keys,
    )


def _panel() -> tuple[Figure, Axes]:
    figure = new_figure(6.2, 5.4)
    return figure, figure.subplots()
