"""The pictures of a report, as data URIs: nothing beside the report is needed to see them."""

import base64
import io
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zeroshot.annotated import AnnotatedSource, read_rows
from zeroshot.annotations import Slots
from zeroshot.backoff import UNKNOWN
from zeroshot.drawing import (
    INK,
    PALETTE,
    REST_COLOUR,
    draw_histogram,
    draw_labels,
    draw_reliability,
    draw_risk,
    draw_values,
    label_colours,
    largest,
    new_figure,
)
from zeroshot.reliability import Reliability
from zeroshot.report_cells import ABSTAINED, BACKED_OFF, CONFIDENT, CalledCells

_STORED_CELLS = 20_000  # drawn of a map that the file has
_COMPUTED_CELLS = 5_000  # of which a map is made
_FEWEST_FOR_UMAP = 50
_LABELS_SHOWN = 12
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
    alt: what it shows, for those who cannot see it
    """

    source: str
    title: str
    alt: str
    caption: str = ""
    keys: tuple[Key, ...] = ()


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
            source=_png(figure),
            title=f"By confidence {what}",
            alt=f"Map of the cells coloured by the confidence {what}; dark is low",
            caption="Yellow: sure of the best single type. Dark: in doubt, and so named broadly."
            if in_leaf
            else "Yellow: sure. Dark: in doubt. Doubtful cells are drawn on top.",
        )
    widest = max(0.05, float(np.quantile(shown, 0.98)))
    draw_values(axes, drawn.places, shown, title="", limits=(0.0, widest))
    return Picture(
        source=_png(figure),
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
    for number, (name, colour) in enumerate(colours.items(), start=1):
        _number(axes, drawn.places[values == name], number)
        n_cells = int(np.sum(called == name))
        keys.append(Key(number=number, name=name, colour=colour, n_cells=n_cells))
    rest = ~np.isin(called, [*colours, UNKNOWN])
    if rest.any():
        name = f"{len(np.unique(called[rest]))} other types"
        keys.append(Key(number=None, name=name, colour=REST_COLOUR, n_cells=int(rest.sum())))
    if n_unknown := int(np.sum(called == UNKNOWN)):
        keys.append(Key(number=None, name=UNKNOWN, colour=REST_COLOUR, n_cells=n_unknown))
    return Picture(
        source=_png(figure),
        title="By call",
        alt="Map of the cells coloured by the type they were called",
        caption="A number stands where the cells of a type are densest.",
        keys=tuple(keys),
    )


def _number(axes: Axes, places: np.ndarray, number: int) -> None:
    """Write a number on the cell that is nearest to the middle of its kind."""
    if not len(places):
        return
    middle = np.median(places, axis=0)
    x, y = places[np.argmin(((places - middle) ** 2).sum(axis=1))]
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
        source=_png(figure),
        title="In full, broadly, or not at all",
        alt="Map of the cells coloured by whether the call is the finest type, broader, or unknown",
        caption="Where the model names the cells as finely as it can, and where it holds back.",
        keys=keys,
    )


def histogram(values: np.ndarray, *, title: str, name: str, mark: float | None) -> Picture:
    """Draw how many cells have which value of a score."""
    figure = new_figure(5.2, 2.9)
    axes = figure.subplots()
    known = values[np.isfinite(values)]
    draw_histogram(axes, known, title=name, mark=mark)
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else (0, 0, 0)
    return Picture(
        source=_svg(figure),
        title=title,
        alt=f"Histogram of {name}: median {middle:.2f}, half of the cells between {low:.2f} and {high:.2f}",
        caption=f"Median {middle:.2f}; half of the cells lie between {low:.2f} and {high:.2f}.",
    )


def reliability_picture(measured: Reliability) -> Picture:
    """Draw how often calls of a confidence are right."""
    bins = measured.bins
    figure = new_figure(4.2, 4.0)
    draw_reliability(figure.subplots(), bins)
    steps = (
        f"{confidence:.2f}: {accuracy:.2f} right"
        for confidence, accuracy in zip(bins.confidence, bins.accuracy, strict=True)
    )
    return Picture(
        source=_svg(figure),
        title="How often calls of a confidence are right",
        alt="Share of calls that are right by confidence: " + "; ".join(steps),
        caption="On the dashed line, calls of confidence 0.9 are right 9 times in 10, and "
        "above it more often than they say. Larger points hold more cells. All studies together; within "
        f"a single study confidence and share right lie {measured.ece:.2f} apart on average.",
    )


def risk_picture(measured: Reliability, *, level: float) -> Picture:
    """Draw what each level of confidence costs in calls; marks the one nearest to that of the file."""
    levels, coverage, risk = map(np.array, (measured.levels, measured.coverage, measured.risk))
    nearest = int(np.argmin(np.abs(levels - level)))
    figure = new_figure(4.2, 4.0)
    draw_risk(figure.subplots(), coverage, risk, levels, marked=nearest)
    steps = (
        f"{each:g}: {x:.0%} called, {y:.0%} of them wrong"
        for each, x, y in zip(levels, coverage, risk, strict=True)
    )
    return Picture(
        source=_svg(figure),
        title="What a level of confidence costs",
        alt="Cells called and calls wrong by level: " + "; ".join(steps),
        caption="Each point is a level (--confidence): a higher one leaves more cells unknown and "
        f"fewer calls wrong. At {levels[nearest]:g}, {coverage[nearest]:.0%} of the cells were "
        f"called and {risk[nearest]:.0%} of these calls were wrong.",
    )


def _panel() -> tuple[Figure, Axes]:
    figure = new_figure(6.2, 5.4)
    return figure, figure.subplots()


def _png(figure: Figure) -> str:
    return _uri(figure, "png", dpi=110)


def _svg(figure: Figure) -> str:
    return _uri(figure, "svg+xml", dpi=72)


def _uri(figure: Figure, kind: str, *, dpi: int) -> str:
    buffer = io.BytesIO()
    form = PurePath(kind).name.partition("+")[0]
    # Without a date, and with fixed ids in an SVG, one report is byte for byte the next.
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "langcell"}):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
