"""The figures of a report that are no maps: histograms, and what a confidence is worth."""

import numpy as np

from zeroshot.confidence.reliability import Reliability
from zeroshot.plots.data_uri import Picture, svg_uri
from zeroshot.plots.panels import draw_histogram, draw_reliability, draw_risk, new_figure


def histogram(values: np.ndarray, *, title: str, name: str, mark: float | None) -> Picture:
    """Draw how many cells have which value of a score."""
    figure = new_figure(5.2, 2.9)
    axes = figure.subplots()
    known = values[np.isfinite(values)]
    draw_histogram(axes, known, title=name, mark=mark)
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else (0, 0, 0)
    return Picture(
        source=svg_uri(figure),
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
        source=svg_uri(figure),
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
        source=svg_uri(figure),
        title="What a level of confidence costs",
        alt="Cells called and calls wrong by level: " + "; ".join(steps),
        caption="Each point is a level (--confidence): a higher one leaves more cells unknown and "
        f"fewer calls wrong. At {levels[nearest]:g}, {coverage[nearest]:.0%} of the cells were "
        f"called and {risk[nearest]:.0%} of these calls were wrong.",
    )
