"""From statistics to the range that is quantised: by extremes, their average, percentile, entropy or squared error.

Every method gives ``low <= 0 <= high`` (zero must be exact: it is what convolutions pad with), within the extremes
unless the range is to be symmetric. Tensors that share a scale get the range that is best for all their values: methods
that weigh clipping against rounding (entropy, squared error) look at their histograms pooled, each in proportion to the
values that an image has of it. The union of ranges chosen one by one would be ruled by the tensor with the widest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lpcc.calibrate.histograms import HALF, Array, Histogram
from lpcc.calibrate.streams import Statistics

Shape = Literal["minmax", "percentile", "entropy", "mse"]
Method = Literal["minmax", "average", "percentile", "entropy", "mse"]
Interval = tuple[float, float]

_CANDIDATES = 100
_FINE = 1024


def joint(
    parts: Sequence[Statistics],
    method: Method,
    *,
    percentile: float = 99.99,
    levels: int = 256,
    symmetric: bool = False,
) -> Interval:
    """The range for tensors that share a scale, to be quantised to `levels` steps; (0, 0) where there are none.

    ``average`` is the moving average of the extremes of single images. For it, for the extremes of all images and for
    percentiles, which promise a share of the values of each tensor, the range is the union of those of all tensors.
    """
    if not parts:
        return 0.0, 0.0
    if method in ("minmax", "percentile") and len(parts) > 1:
        ends = [joint([part], method, percentile=percentile, levels=levels, symmetric=symmetric) for part in parts]
        return min(low for low, _ in ends), max(high for _, high in ends)
    if method == "average":
        low = min(0.0, *(part.average[0] for part in parts))
        high = max(0.0, *(part.average[1] for part in parts))
        return _mirrored(low, high) if symmetric else (low, high)
    pooled = parts[0].histogram
    if len(parts) > 1:
        totals = [max(part.histogram.total, 1) for part in parts]
        pooled = Histogram.pooled(
            [(part.histogram, part.size / total) for part, total in zip(parts, totals, strict=True)]
        )
    return choose(pooled, method, percentile=percentile, levels=levels, symmetric=symmetric)


def choose(
    histogram: Histogram, method: Shape, *, percentile: float = 99.99, levels: int = 256, symmetric: bool = False
) -> Interval:
    """The range to be quantised to `levels` steps; as far below zero as above if it is to be `symmetric`.

    `percentile` is for the method of that name: the share of values, in percent, that lies below the upper end, and
    above the lower end.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method == "minmax" or histogram.exponent is None or not low < high:
        found = low, high
    elif method == "percentile":
        found = _percentile(histogram, percentile)
    elif method == "entropy":
        found = _entropy(histogram, low, high, levels)
    else:
        return _squared_error(histogram, low, high, levels, symmetric=symmetric)
    inside = max(found[0], low), min(found[1], high)
    inside = inside if inside[0] < inside[1] else (low, high)
    return _mirrored(*inside) if symmetric else inside


def _mirrored(low: float, high: float) -> Interval:
    magnitude = max(-low, high)
    return -magnitude, magnitude


def _percentile(histogram: Histogram, percentile: float) -> Interval:
    """Ends beyond which at most ``100 - percentile`` percent of the values lie, on each side."""
    counts = histogram.counts.copy()
    counts[HALF] += histogram.zeros
    edges = np.arange(-HALF, HALF + 1) * histogram.width
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    allowed = counts.sum() * (1 - percentile / 100)
    first = int(np.searchsorted(cumulative, allowed, side="right")) - 1
    last = int(np.searchsorted(cumulative, cumulative[-1] - allowed, side="left"))
    return min(float(edges[first]), 0.0), max(float(edges[last]), 0.0)


def _squared_error(histogram: Histogram, low: float, high: float, levels: int, *, symmetric: bool) -> Interval:
    """The range with the least mean squared error of quantisation.

    A value is rounded to zero within half a step of it, which costs its square; any other inside costs ``step^2 / 12``
    on average; one outside the squared distance to the end. All pairs of a lower and an upper end are tried, as shares
    of the extremes; all magnitudes for a symmetric range.
    """
    occupied = np.flatnonzero(histogram.counts)
    if not len(occupied):
        return _mirrored(low, high) if symmetric else (low, high)
    x, n = _coarse(histogram.centres[occupied[0] : occupied[-1] + 1], histogram.counts[occupied[0] : occupied[-1] + 1])
    shares = np.geomspace(1.0, 1 / 64, _CANDIDATES)
    if symmetric:
        highs = max(-low, high) * shares
        lows = -highs
    else:
        lows = (low * shares if low < 0 else np.zeros(1))[:, None]
        highs = (high * shares if high > 0 else np.zeros(1))[None, :]
    below, outside_low = _clipped(-x, n, -lows)
    above, outside_high = _clipped(x, n, highs)
    step = (highs - lows) / (levels - 1)
    inside = n.sum() - outside_low - outside_high
    small, vanished = _vanishing(x, n, step / 2)
    error = np.maximum(inside - small, 0) * step**2 / 12 + vanished + below + above
    best = int(np.argmin(error))
    return float(np.broadcast_to(lows, error.shape).flat[best]), float(np.broadcast_to(highs, error.shape).flat[best])


def _coarse(x: Array, n: Array) -> tuple[Array, Array]:
    """At most `_FINE` bins: centres and counts, neighbours added up."""
    per_bin = -(-len(x) // _FINE)
    starts = np.arange(0, len(x), per_bin)
    counts = np.add.reduceat(n, starts).astype(np.float64)
    centres = np.add.reduceat(x, starts) / np.diff([*starts, len(x)])
    return centres[counts > 0], counts[counts > 0]


def _clipped(x: Array, n: Array, ends: Array) -> tuple[Array, Array]:
    """For each end: sum of the squared distances of what lies beyond it, and how many values that is."""
    beyond = np.maximum(x - ends[..., None], 0.0)
    return beyond**2 @ n, (beyond > 0) @ n


def _vanishing(x: Array, n: Array, reach: Array) -> tuple[Array, Array]:
    """For each reach: how many values are nearer to zero than that, and the sum of their squares."""
    order = np.argsort(np.abs(x))
    counts = np.concatenate([[0.0], np.cumsum(n[order])])
    squares = np.concatenate([[0.0], np.cumsum(n[order] * x[order] ** 2)])
    place = np.searchsorted(np.abs(x[order]), reach)
    return counts[place], squares[place]


def _entropy(histogram: Histogram, low: float, high: float, levels: int) -> Interval:
    """The range whose quantised distribution has the least Kullback-Leibler divergence from the clipped one.

    As in TensorRT's calibration (Migacz, GTC 2017), for both ends: the reference P is the histogram with what lies
    outside added to the outermost bins; Q spreads the values of each of `levels` steps evenly over those of its bins
    that hold any. The end that is further out is searched first. Exact zeros say nothing about a range: they are left
    out.
    """
    n = histogram.counts.astype(np.float64)

    def divergence(low: float, high: float) -> float:
        first = HALF + int(np.floor(low / histogram.width))
        last = HALF + int(np.ceil(high / histogram.width))
        if last - first < levels // 2:
            return float(np.inf)
        p = n[first:last].copy()
        p[0] += n[:first].sum()
        p[-1] += n[last:].sum()
        return _divergence(p, n[first:last], levels)

    shares = np.geomspace(1.0, 1 / 64, _CANDIDATES)
    for upper in (high > -low, high <= -low):
        tried = [(low, high * share) if upper else (low * share, high) for share in shares]
        low, high = min(tried, key=lambda ends: divergence(*ends))
    return low, high


def _divergence(p: Array, inside: Array, levels: int) -> float:
    """Kullback-Leibler divergence of `p` from the histogram `inside` quantised to `levels` steps."""
    step = np.minimum((np.arange(len(p)) * levels) // len(p), levels - 1)
    held = inside > 0
    occupied = np.bincount(step, weights=held, minlength=levels)
    sums = np.bincount(step, weights=inside, minlength=levels)
    q = np.where(held, (sums / np.maximum(occupied, 1))[step], 0.0)
    if p.sum() == 0 or q.sum() == 0:
        return float(np.inf)
    p, q = p / p.sum(), q / q.sum()
    tiny = 1e-9  # an end bin may hold outliers alone
    mask = p > 0
    return float(np.sum(p[mask] * np.log(p[mask] / np.maximum(q[mask], tiny))))
