"""The scale of least error, for formats whose numbers are a scale times fixed levels.

What counts is not the error e of the weights w but what it does to their sums with the inputs:

    error = |e|^2 + mean (sum e)^2 + along <e, w>^2 / |w|^2,   e = w - s q

The first term is what independent inputs without a mean make of it. Behind a Relu inputs have a mean m, and with
variance v errors that add up do more by ``mean = m^2 / v``, which is 0.47 for a rectified normal distribution; where a
bias takes back the mean of the error there is no such term. And clipping for the least squared error makes each filter
a little weaker, by the same share for all images: an error along the weights, which meets what the filter was trained
to answer to, and counts more. No images are needed.

For each row w the scale s of the least error is searched, with q the nearest levels to ``w / s``: among given
candidates, then by turns the best s of given levels, but for the second term,

    s = (1 + along) <w, q> / (|q|^2 + along <w, q>^2 / |w|^2)

and the nearest levels of that s, while that helps. For the squared error alone, clipping: Banner et al., Post-training
4-bit quantization of convolutional networks (2019); by turns: Li et al., Ternary weight networks (2016). With the
second term in that scale, too, the outputs of five networks moved by -0.5 to 0.5 dB for integers of 4 bits and sums of
two powers of two, and by next to none on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lpcc.formats.affine import SMALLEST, Array

Nearest = Callable[[Array], Array]
"""From numbers in units of the scale to the nearest levels."""


@dataclass(frozen=True)
class Objective:
    """What errors of weights count for: the terms of the equation."""

    mean: float
    """Weight of the square of their sum."""
    along: float
    """Weight of the part of them along the weights."""

    def error(self, rows: Array, kept: Array) -> Array:
        """Of each row, float64, where `kept` is in the place of `rows`."""
        lost = rows - kept
        found = np.square(lost).sum(axis=1, dtype=np.float64)
        found += self.mean * np.square(lost.sum(axis=1, dtype=np.float64))
        found += self.along * np.square(_products(lost, rows)) / _strength(rows)
        return np.asarray(found)

    def scale(self, rows: Array, levels: Array) -> Array:
        """Of each row that of least error for given levels, but for their sum; 0 where it is not positive."""
        product = _products(rows, levels)
        energy = np.square(levels).sum(axis=1, dtype=np.float64) + self.along * np.square(product) / _strength(rows)
        return np.asarray((1 + self.along) * np.maximum(product, 0.0) / np.where(energy > 0, energy, 1.0))


SQUARED = Objective(mean=0.0, along=0.0)
"""The squared error alone."""
ALONE = Objective(mean=0.5, along=0.0)
"""For weights that are rounded and nothing else. In 4 bits the second term is worth 9 dB at the outputs of a ResNet-8,
for sums of two powers of two 5 dB on ResNet-20."""
WITH_BIAS = Objective(mean=0.0, along=10.0)
"""For weights of a layer whose bias takes back what rounding does to the mean of its output. With all weights of five
networks in 4 bits the third term kept the outputs up to 4.9 dB closer and never more than 0.1 dB further away; with the
second in its place the outputs were 1.3 to 5.3 dB further away on four of them, 0.3 dB closer on MobileNetV2."""


def least_error(
    rows: Array,
    candidates: Iterable[Array],
    nearest: Nearest,
    turns: int,
    objective: Objective = ALONE,
    floor: Array | float = 0.0,
) -> Array:
    """The scale of each row (rows,), float64, not below `floor`; the first of those that are equally good."""
    floor = np.maximum(floor, SMALLEST)
    best = np.ones(len(rows))
    error = np.full(len(rows), np.inf)
    for candidate in candidates:
        tried = np.maximum(candidate, floor)
        found = objective.error(rows, rounded(rows, tried, nearest))
        best = np.where(found < error, tried, best)
        error = np.minimum(found, error)
    for _ in range(turns):
        fitted = objective.scale(rows, nearest(rows / _column(best)))
        tried = np.where(fitted > 0, np.maximum(fitted, floor), best)
        found = objective.error(rows, rounded(rows, tried, nearest))
        if not (found < error).any():
            break
        best, error = np.where(found < error, tried, best), np.minimum(found, error)
    return best


def rounded(rows: Array, scale: Array, nearest: Nearest) -> Array:
    """Each row as the nearest levels times its scale."""
    spread = _column(scale)
    kept: Array = nearest(rows / spread) * spread
    return kept


def _column(scale: Array) -> Array:
    return scale[:, None].astype(np.float32)


def _products(first: Array, second: Array) -> Array:
    return np.asarray((first * second).sum(axis=1, dtype=np.float64))


def _strength(rows: Array) -> Array:
    """Squared norm of each row; 1 for one of zeros, which has no error."""
    found = np.square(rows).sum(axis=1, dtype=np.float64)
    return np.where(found > 0, found, 1.0)
