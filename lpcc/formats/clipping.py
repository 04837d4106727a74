"""Which magnitude of a channel's weights the greatest integer is to stand for, where that need not be the largest."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpcc.formats.affine import quantize_weights

Array = np.ndarray[Any, Any]

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
    errors = []
    for share in SHARES:
        error = quantize_weights(values, axis, largest, magnitudes=most * share).values - values
        errors.append(channel_energy(error, axis))
    return best_magnitudes(most, np.stack(errors))


def channel_energy(error: Array, axis: int | None) -> Array:
    """Sum of squares for each index of `axis`, or of all; float64."""
    others = tuple(i for i in range(error.ndim) if i != axis)
    return np.asarray(np.square(error, dtype=np.float64).sum(axis=others if axis is not None else None))


def best_magnitudes(most: Array, errors: Array) -> Array:
    """The magnitudes of least error; `errors` has a row for each of `SHARES`."""
    result: Array = most * SHARES[np.argmin(errors, axis=0)]
    return result
