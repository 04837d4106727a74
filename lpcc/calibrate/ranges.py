"""From a histogram to the range that is quantised: by extremes, percentile, entropy or squared error.

Every method gives ``low <= 0 <= high`` (zero must be exact: it is what convolutions pad with) within the extremes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lpcc.calibrate.histograms import HALF, Array, Histogram

Method = Literal["minmax", "percentile", "entropy", "mse"]
Interval = tuple[float, float]

_CANDIDATES = 128


def choose(histogram: Histogram, method: Method, percentile: float = 99.99, levels: int = 256) -> Interval:
    """The range to be quantised to `levels` steps.

    `percentile` is used by the method of that name alone: the share of values, in percent, that lies below the upper
    end, and above the lower end.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method == "minmax" or histogram.exponent is None or not low < high:
        return low, high
    if method == "percentile":
        found = _percentile(histogram, percentile)
    elif method == "entropy":
        found = _entropy(histogram, low, high, levels)
    else:
        found = _squared_error(histogram, low, high, levels)
    inside = max(found[0], low), min(found[1], high)
    return inside if inside[0] < inside[1] else (low, high)


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


def _candidates(low: float, high: float) -> tuple[Array, Array]:
    """Lower and upper ends to try, all pairs: shares of the extremes, finer towards small ones."""
    shares = np.geomspace(1.0, 1 / 64, _CANDIDATES)
    lows = np.array([0.0]) if low == 0 else low * shares
    highs = np.array([0.0]) if high == 0 else high * shares
    return lows, highs


def _squared_error(histogram: Histogram, low: float, high: float, levels: int) -> Interval:
    """The range with the least mean squared error of quantisation.

    Rounding costs ``step^2 / 12`` for each value inside that is not zero, clipping the squared distance to the end.
    Sums over the values beyond an end come from running sums of 1, x and x^2, so that all pairs are tried at once.
    """
    x, n = histogram.centres, histogram.counts.astype(np.float64)
    lows, highs = _candidates(low, high)
    below, outside_low = _clipped(-x[::-1], n[::-1], -lows)
    above, outside_high = _clipped(x, n, highs)
    step = (highs[None, :] - lows[:, None]) / (levels - 1)
    inside = n.sum() - outside_low[:, None] - outside_high[None, :]
    error = inside * step**2 / 12 + below[:, None] + above[None, :]
    error[step <= 0] = np.inf
    best = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[best[0]]), float(highs[best[1]])


def _clipped(x: Array, n: Array, ends: Array) -> tuple[Array, Array]:
    """Sum of squared distances of the values beyond each end, and their number; `x` ascending."""
    sums = [np.concatenate([np.cumsum((n * x**power)[::-1])[::-1], [0.0]]) for power in (0, 1, 2)]
    first = np.searchsorted(x, ends, side="right")
    count, total, squares = (each[first] for each in sums)
    return np.maximum(squares - 2 * ends * total + ends**2 * count, 0.0), count


def _entropy(histogram: Histogram, low: float, high: float, levels: int) -> Interval:
    """The range whose quantised distribution has the least Kullback-Leibler divergence from the clipped one.

    As in TensorRT's calibration (Migacz, GTC 2017), for both ends: the reference P is the histogram with what lies
    outside added to the outermost bins; Q spreads the values of each of `levels` steps evenly over those of its bins
    that hold any. Both ends shrink by one share. Exact zeros say nothing about a range: they are left out.
    """
    n = histogram.counts.astype(np.float64)
    best, least = (low, high), np.inf
    for share in np.linspace(1.0, 1 / 16, _CANDIDATES):
        first = HALF + int(np.floor(low * share / histogram.width))
        last = HALF + int(np.ceil(high * share / histogram.width))
        if last - first < levels // 2:
            break
        inside = n[first:last]
        p = inside.copy()
        p[0] += n[:first].sum()
        p[-1] += n[last:].sum()
        divergence = _divergence(p, inside, levels)
        if divergence < least:
            best, least = (low * share, high * share), divergence
    return best


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
