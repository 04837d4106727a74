"""The statistics of one tensor, gathered image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcc.calibrate.histograms import Array, Histogram

_PENDING = 1 << 16
"""Values that are binned at once."""
_RATE = 0.01
"""Share of a new image in a moving average, once a hundred were seen."""

_Part = tuple[int, Array | None]
"""A number of images, and values with the extremes of each; None where those are zero."""


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
        self._lows: list[_Part] = []
        self._highs: list[_Part] = []
        self._count = 0
        self._averages = Average(), Average()
        self._sums: Array = np.zeros(1)
        self._rows = 0

    def add(self, sample: Array, images: int, low: Array | None, high: Array) -> None:
        """Take in a sample of some images, and arrays that have the least and the greatest value of each in them.

        The least is zero where `low` is None. What does not divide into images counts as one.
        """
        if sample.ndim == 0:
            sample = sample.reshape(1)
        if self._samples and sample.shape[1:] != self._samples[0].shape[1:]:
            self._flush()  # images of another size
        self._samples.append(sample)
        most = 4 * sample.size
        # Reduced later, many at a time, but for what would take much memory until then.
        self._lows.append((images, low if low is None or low.size <= most else _reduced(low, images, np.minimum)))
        self._highs.append((images, high if high.size <= most else _reduced(high, images, np.maximum)))
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
            self._rows += values.size // (values.shape[1] if values.ndim > 1 else 1)
            self._sums = self._sums + _sums(values)
            lows, highs = _by_image(self._lows, np.minimum), _by_image(self._highs, np.maximum)
            for average, extremes in zip(self._averages, (lows, highs), strict=True):
                average.add(extremes)
            rows = values.reshape(len(values), -1)
            step = _step(rows.shape[1] // self._per_sample, values.shape[-1])
            self._histogram.add(rows[:, ::step], float(lows.min()), float(highs.max()))
        self._samples, self._lows, self._highs = [], [], []
        self._count = 0


def _sums(values: Array) -> Array:
    """Sum of each channel (axis 1), of all values where there is no such axis; float64."""
    if values.ndim < 2:
        return np.asarray([values.sum(dtype=np.float64)])
    flat = values.reshape(*values.shape[:2], -1)
    if flat.shape[2] > 1:  # sums of rows that lie in memory as they are are several times as fast
        return np.asarray(flat.astype(np.float64).sum(axis=2).sum(axis=0))
    return np.asarray(flat[:, :, 0].sum(axis=0, dtype=np.float64))


def _by_image(parts: Sequence[_Part], extreme: np.ufunc) -> Array:
    """The extremes of each image, one after the other, from those of some images each."""
    arrays = [values for images, values in parts if values is not None and values.ndim and len(values) == images]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        whole = np.concatenate(arrays)
        return _reduced(whole, len(whole), extreme)
    return np.concatenate([_reduced(values, images, extreme) for images, values in parts])


def _reduced(values: Array | None, images: int, extreme: np.ufunc) -> Array:
    """The extreme of each of so many images (images,), of all together where the values do not divide into them."""
    if values is None:
        return np.zeros(images, np.float32)
    return np.asarray(extreme.reduce(values.reshape(images if values.size % images == 0 else 1, -1), axis=1))


def _step(least: int, row: int) -> int:
    """A stride of `least` or a little more that has no divisor in common with the row length: it visits all columns."""
    step = max(1, least)
    while math.gcd(step, row) > 1:
        step += 1
    return step
