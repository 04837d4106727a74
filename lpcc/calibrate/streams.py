"""The statistics of one tensor, gathered image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lpcc.calibrate.histograms import Array, Histogram

_PENDING = 1 << 16
"""Values that are binned at once."""
_RATE = 0.01
"""Share of a new image in a moving average, once a hundred were seen."""


@dataclass
class Statistics:
    """What a tensor held."""

    histogram: Histogram
    channel_means: Array
    """Mean of each channel (axis 1), float64; of the binned values. One mean for a tensor without that axis."""
    average: tuple[float, float]
    """Moving average of the least and of the greatest value of each image: see `Average`."""
    size: int
    """Values that one image has."""


class Average:
    """Moving average of numbers that come one by one: the mean of the first hundred, then 1 % of each new one.

    ``a_n = a_(n-1) + max(1 / n, 0.01) * (x_n - a_(n-1))``. It starts as the mean, so that the first number does not
    rule a short stream.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, numbers: Array) -> None:
        """Take in float `numbers` (N,), in order. Those that are not finite are left out."""
        for number in numbers[np.isfinite(numbers)].tolist():
            self._count += 1
            self.value += max(1 / self._count, _RATE) * (number - self.value)


class Stream:
    """Values on their way into a histogram, binned in large portions: small ones cost more in calls than in work."""

    def __init__(self, per_sample: int, size: int) -> None:
        """Of each image about `per_sample` values are binned, of the `size` that it has."""
        self._low, self._high = math.inf, -math.inf
        self._per_sample = per_sample
        self._size = size
        self._histogram = Histogram()
        self._samples: list[Array] = []
        self._lows: list[Array] = []
        self._highs: list[Array] = []
        self._count = 0
        self._averages = Average(), Average()
        self._sums: Array = np.zeros(1)
        self._rows = 0

    def add(self, sample: Array, images: int, low: Array, high: Array) -> None:
        """Take in a sample of some images, and arrays that have the least and the greatest value of each in them.

        What does not divide into images counts as one.
        """
        if sample.ndim == 0:
            sample = sample.reshape(1)
        if self._samples and sample.shape[1:] != self._samples[0].shape[1:]:
            self._flush()  # images of another size
        self._samples.append(sample)
        rows = images if low.size % images == 0 and high.size % images == 0 else 1
        self._lows.append(low.reshape(rows, -1).min(axis=1))
        self._highs.append(high.reshape(rows, -1).max(axis=1))
        self._count += sample.size
        if self._count >= _PENDING:
            self._flush()

    def widen(self, values: Array) -> None:
        """Take in values for nothing but their extremes."""
        least, greatest = float(values.min()), float(values.max())
        if math.isfinite(least) and math.isfinite(greatest):
            self._low, self._high = min(self._low, least), max(self._high, greatest)

    def finish(self) -> Statistics:
        """The statistics of all that came."""
        self._flush()
        histogram = self._histogram
        histogram.low, histogram.high = min(self._low, histogram.low), max(self._high, histogram.high)
        average = self._averages[0].value, self._averages[1].value
        return Statistics(histogram, self._sums / max(self._rows, 1), average, self._size)

    def _flush(self) -> None:
        if self._count:
            values = np.concatenate(self._samples)
            others = tuple(axis for axis in range(values.ndim) if axis != 1)
            self._sums = self._sums + values.sum(axis=others, dtype=np.float64)
            self._rows += values.size // (values.shape[1] if values.ndim > 1 else 1)
            lows, highs = np.concatenate(self._lows), np.concatenate(self._highs)
            for average, extremes in zip(self._averages, (lows, highs), strict=True):
                average.add(extremes)
            rows = values.reshape(len(values), -1)
            step = _step(rows.shape[1] // self._per_sample, values.shape[-1])
            self._histogram.add(rows[:, ::step], float(lows.min()), float(highs.max()))
        self._samples, self._lows, self._highs = [], [], []
        self._count = 0


def _step(least: int, row: int) -> int:
    """A stride of `least` or a little more that has no divisor in common with the row length: it visits all columns."""
    step = max(1, least)
    while math.gcd(step, row) > 1:
        step += 1
    return step
