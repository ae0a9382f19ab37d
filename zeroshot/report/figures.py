"""Figures of a report other than UMAPs: histograms, reliability and risk curves."""

import numpy as np

from zeroshot.confidence.reliability import Reliability
from zeroshot.plots.panels import draw_histogram, draw_reliability, draw_risk, new_figure
from zeroshot.report.data_uri import Picture, svg_uri


def histogram(values: np.ndarray, *, title: str, name: str, mark: float | None) -> Picture:
    """Draw the histogram of a score."""
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
    """Draw the reliability diagram of a calibration."""
    bins = measured.bins
    figure = new_figure(4.2, 4.0)
    draw_reliability(figure.subplots(), bins)
    steps = (
        f"{confidence:.2f}: {accuracy:.2f} right"
        for confidence, accuracy in zip(bins.confidence, bins.accuracy, strict=True)
    )
    return Picture(
        source=svg_uri(figure),
        title="Accuracy by confidence",
        alt="Fraction of calls that are right by confidence: " + "; ".join(steps),
        caption="On the dashed line confidence equals accuracy: of calls with confidence 0.9, 9 in 10 "
        "are right. Points above the line are right more often than that. Larger points have more "
        "cells. All studies together; within a single study confidence and accuracy differ by "
        f"{measured.ece:.2f} on average.",
    )


def risk_picture(measured: Reliability, *, threshold: float) -> Picture:
    """Draw coverage and risk at each confidence threshold; mark the one nearest to `threshold`."""
    thresholds, coverage, risk = map(np.array, (measured.levels, measured.coverage, measured.risk))
    nearest = int(np.argmin(np.abs(thresholds - threshold)))
    figure = new_figure(4.2, 4.0)
    draw_risk(figure.subplots(), coverage, risk, thresholds, marked=nearest)
    steps = (
        f"{each:g}: {x:.0%} called, {y:.0%} of them wrong"
        for each, x, y in zip(thresholds, coverage, risk, strict=True)
    )
    return Picture(
        source=svg_uri(figure),
        title="Cells called and calls wrong by threshold",
        alt="Cells called and calls wrong by confidence threshold: " + "; ".join(steps),
        caption="Each point is a confidence threshold: with a higher one more cells are "
        f"unknown and fewer calls are wrong. At {thresholds[nearest]:g}, {coverage[nearest]:.0%} of "
        f"the cells were called and {risk[nearest]:.0%} of these calls were wrong.",
    )
