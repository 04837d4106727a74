"""The scale of least squared error, for formats whose numbers are a scale times fixed levels.

For each row w the scale s is searched for the least ``sum (w - s q)^2`` with q the nearest levels to ``w / s``: first
among given candidates, then by turns the best s of given levels, ``s = <w, q> / <q, q>``, and the nearest levels of
that s, which can only lower the error (Lloyd's method; Banner et al. 2019 and Li et al. 2016 do so for weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from lpcc.formats.format import SMALLEST, Array

Nearest = Callable[[Array], Array]
"""From numbers in units of the scale to the nearest levels."""


def least_squares(rows: Array, candidates: Iterable[Array], nearest: Nearest, turns: int) -> Array:
    """The scale of each row (rows,), float64; the first of those that are equally good."""
    best = np.ones(len(rows))
    error = np.full(len(rows), np.inf)
    for candidate in candidates:
        tried = np.maximum(candidate, SMALLEST)
        found = squared_error(rows, tried, nearest)
        best = np.where(found < error, tried, best)
        error = np.minimum(found, error)
    for _ in range(turns):
        levels = nearest(rows / best[:, None].astype(np.float32))
        energy = np.square(levels).sum(axis=1, dtype=np.float64)
        fitted = (rows * levels).sum(axis=1, dtype=np.float64) / np.where(energy > 0, energy, 1.0)
        tried = np.where((energy > 0) & (fitted >= SMALLEST), fitted, best)
        found = squared_error(rows, tried, nearest)
        if not (found < error).any():
            break
        best, error = np.where(found < error, tried, best), np.minimum(found, error)
    return best


def squared_error(rows: Array, scale: Array, nearest: Nearest) -> Array:
    """Sum of the squared errors of each row."""
    spread = scale[:, None].astype(np.float32)
    error: Array = np.square(rows - nearest(rows / spread) * spread).sum(axis=1, dtype=np.float64)
    return error
