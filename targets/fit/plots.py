"""Plots of predicted against measured, one SVG file for each target."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lpcc.errors import UsageError
from lpcc.targets.fit.catalogue import plot_of
from lpcc.targets.fit.check import Points


def draw(found: Iterable[Points], folder: Path) -> list[Path]:
    """Write a plot for each target: a panel for each of its quantities, the diagonal, and a band of 10 %.

    Raises UsageError where matplotlib is missing.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'lpcc[fit]'") from None
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "lpcc", "svg.fonttype": "none", "font.size": 8})  # the same bytes every time
    folder.mkdir(parents=True, exist_ok=True)
    panels: dict[str, list[Points]] = {}
    for points in found:
        panels.setdefault(points.target, []).append(points)
    written = []
    for target, series in sorted(panels.items()):
        figure = Figure(figsize=(3.2 * len(series), 3.0), layout="constrained")
        for axes, points in zip(figure.subplots(1, len(series), squeeze=False)[0], series, strict=True):
            _panel(axes, points)
        figure.suptitle(target, fontsize=9)
        path = folder / plot_of(target)
        figure.savefig(path, metadata={"Date": None})
        written.append(path)
    return written


def _panel(axes: Any, points: Points) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    low = min(*points.measured, *points.predicted) * 0.8
    high = max(*points.measured, *points.predicted) * 1.25
    axes.fill_between([low, high], [low * 0.9, high * 0.9], [low * 1.1, high * 1.1], color="0.9", linewidth=0)
    axes.plot([low, high], [low, high], color="0.6", linewidth=0.8)
    axes.plot(points.measured, points.predicted, "o", markersize=2.5, alpha=0.6, markeredgewidth=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"measured {points.what}")
    axes.set_ylabel("predicted")
    axes.set_title(f"{len(points.names)} networks, {100 * points.within(0.1):.0f} % within 10 %", fontsize=8)
