"""Which magnitude of a channel's weights the greatest integer is to stand for, where that need not be the largest."""

from __future__ import annotations

import numpy as np

from lpcc.formats.affine import Array
from lpcc.formats.format import Layout
from lpcc.formats.search import SQUARED, least_error

SHARES: Array = np.linspace(1.0, 0.6, 21)
"""Shares of the largest magnitude that are tried; the largest itself first, which wins a tie."""


def largest_magnitudes(values: Array, axis: int | None) -> Array:
    """Largest magnitude for each index of `axis`, or of all weights; float64."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    return np.asarray(np.abs(values).max(axis=others if axis is not None else None), dtype=np.float64)


def squared_error_magnitudes(values: Array, axis: int | None, largest: int) -> Array:
    """Magnitudes with the least ``sum (w - s * clip(round(w / s), -largest, largest))^2``, ``s = magnitude / largest``.

    One for each index of `axis`, or one for all weights.
    """
    most = largest_magnitudes(values, axis)
    scales = least_error(
        Layout(axis).rows(np.asarray(values, dtype=np.float32)),
        (most.reshape(-1) * share / largest for share in SHARES),
        lambda units: np.clip(np.rint(units), -largest, largest),
        0,
        SQUARED,
    )
    return np.asarray(np.minimum(scales.reshape(most.shape) * largest, most))


def best_magnitudes(most: Array, errors: Array) -> Array:
    """The magnitudes of least error; `errors` has a row for each of `SHARES`."""
    result: Array = most * SHARES[np.argmin(errors, axis=0)]
    return result
