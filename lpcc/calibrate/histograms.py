"""A histogram of a stream of numbers whose range is not known beforehand, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HALF = 4096
"""Bins on each side of zero."""


class Histogram:
    """Counts in ``2 * HALF`` bins of equal width around zero, with the exact extremes of all values.

    The width is a power of two. A value out of range doubles it, which adds up neighbouring bins two by two, so that
    the result depends neither on the order of the values nor on how they were split into parts: merging is exact.
    Exact zeros, of which a ReLU makes many, are counted apart, as quantisation leaves them as they are.
    """

    def __init__(self) -> None:
        self.low = math.inf
        """Least value of all."""
        self.high = -math.inf
        """Greatest value of all."""
        self.zeros = 0
        """How many of the binned values are exactly zero; they are in no bin."""
        self.counts: Array = np.zeros(2 * HALF, dtype=np.int64)
        """Values in each bin; bin ``i`` covers ``[(i - HALF) * width, (i + 1 - HALF) * width)``."""
        self.exponent: int | None = None
        """The width is ``2 ** exponent``; None as long as all values were zero."""

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many values were binned, zeros included."""
        return int(self.counts.sum()) + self.zeros

    @property
    def centres(self) -> Array:
        """Centre of each bin, float64."""
        return (np.arange(-HALF, HALF, dtype=np.float64) + 0.5) * self.width

    def add(self, values: Array, low: float | None = None, high: float | None = None) -> None:
        """Count float `values` of any shape.

        Where they are a sample of more values, `low` and `high` are the extremes of all of these. Values that are not
        finite are left out.
        """
        values = values.reshape(-1)
        if values.size == 0:
            return
        low = float(values.min()) if low is None else low
        high = float(values.max()) if high is None else high
        if not (math.isfinite(low) and math.isfinite(high)):
            values = values[np.isfinite(values)]
            if values.size == 0:
                return
            low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        if self.exponent is None:
            self.zeros += values.size
            return
        # Exact in float32: the width is a power of two, and the indices are small.
        index = np.floor(values * values.dtype.type(math.ldexp(1.0, -self.exponent)))
        index += HALF
        counts = np.bincount(index.astype(np.intp), minlength=2 * HALF)
        zeros = values.size - int(np.count_nonzero(values))
        counts[HALF] -= zeros
        self.zeros += zeros
        self.counts += counts

    @classmethod
    def pooled(cls, parts: Iterable[tuple[Histogram, float]]) -> Histogram:
        """The histogram of several, each counted as often as its factor says; its counts are float64."""
        found = cls()
        found.counts = found.counts.astype(np.float64)
        zeros = 0.0
        for part, factor in parts:
            weighted = cls()
            weighted.low, weighted.high, weighted.exponent = part.low, part.high, part.exponent
            weighted.counts = part.counts * factor
            found.merge(weighted)
            zeros += part.zeros * factor
        found.zeros = round(zeros)
        return found

    def merge(self, other: Histogram) -> None:
        """Add what another histogram counted."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        if other.exponent is None:
            return
        self._grow(other.exponent)
        counts = other.counts
        for _ in range((self.exponent or 0) - other.exponent):
            counts = _halve(counts)
        self.counts += counts

    def _reach(self, magnitude: float) -> None:
        """Widen the bins until `magnitude` lies in one."""
        if magnitude > 0:
            exponent = math.frexp(magnitude)[1] - int(math.log2(HALF))  # magnitude < 2 ** frexp
            self._grow(max(exponent, -120))  # 2 ** 120 is finite in float32

    def _grow(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        for _ in range(exponent - self.exponent):
            self.counts = _halve(self.counts)
        self.exponent = max(self.exponent, exponent)


def _halve(counts: Array) -> Array:
    """Counts in bins twice as wide."""
    wide = np.zeros_like(counts)
    wide[HALF // 2 : HALF // 2 + HALF] = counts.reshape(-1, 2).sum(axis=1)
    return wide
