"""Coefficients of several devices fitted at once, where devices of a kind differ little from each other.

    milliseconds x GHz = sum over terms j of exp(prior_j + sum over levels of theta[level, j]) x amount_j

Logarithms of coefficients are sums over levels (all devices, those of one number format, of one core, one device), each
drawn towards 0 with a spread of its own: a term that few networks tell apart stays near what is known of it elsewhere.
Errors are relative; those far off count less than their square.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 15
_STILL = 1e-3


@dataclass(frozen=True)
class Level:
    """Devices that share a deviation: of each term (`terms`) and of each group of terms (`groups`), as spreads.

    A group's deviation moves all its terms alike; `common` moves all terms of the level.
    """

    key: Hashable
    terms: float
    groups: float
    common: float


@dataclass(frozen=True)
class Sample:
    """One measurement: amounts of all terms, the levels of the device, the measured value."""

    amounts: Floats
    levels: tuple[Level, ...]
    measured: float


@dataclass(frozen=True)
class Coefficients:
    """What was fitted."""

    prior: Floats
    deviations: Mapping[Hashable, Floats]

    def of(self, levels: Iterable[Level]) -> Floats:
        """Coefficients of a device that belongs to `levels`; a level that was not seen does not deviate."""
        found = self.prior.copy()
        for level in levels:
            if level.key in self.deviations:
                found += self.deviations[level.key]
        return np.exp(found)


def fit(samples: Sequence[Sample], prior: Floats, groups: NDArray[np.int64], noise: float = 0.06) -> Coefficients:
    """Fit all levels of all samples; `prior` holds coefficients above 0, `groups` the group of each term.

    `noise` is the relative error, as a standard deviation, that a prediction has in any case.
    """
    count, kinds = len(prior), int(groups.max()) + 1
    width = count + kinds + 1
    levels = list(dict.fromkeys(level for sample in samples for level in sample.levels))
    start = {level.key: index * width for index, level in enumerate(levels)}
    spread = np.concatenate([np.r_[[v.terms] * count, [v.groups] * kinds, v.common] for v in levels])
    spread[spread == 0] = 1e-9
    spread = spread**2
    amounts = np.array([sample.amounts for sample in samples])
    wanted = np.log([sample.measured for sample in samples])
    base = np.log(prior)
    expand = np.hstack([np.eye(count), np.eye(kinds)[groups], np.ones((count, 1))])  # [term, unknown of a level]
    theta = np.zeros(len(spread))

    def deviation(level: Level) -> Floats:
        own = theta[start[level.key] : start[level.key] + width]
        found: Floats = expand @ own
        return found

    for _ in range(_STEPS):
        by_level = {level.key: deviation(level) for level in levels}
        logs = np.array([base + sum(by_level[level.key] for level in sample.levels) for sample in samples])
        parts = amounts * np.exp(logs)
        total = parts.sum(1)
        residual = wanted - np.log(total)
        slope = (parts / total[:, None]) @ expand
        rows = np.zeros((len(samples), len(spread)))
        for row, sample in enumerate(samples):
            for level in sample.levels:
                at = start[level.key]
                rows[row, at : at + width] = slope[row]
        root = 1 / (noise * np.sqrt(1 + (residual / (3 * noise)) ** 2))
        rows *= root[:, None]
        right = residual * root + rows @ theta
        inner = (rows * spread) @ rows.T + np.eye(len(samples))
        step = spread * (rows.T @ np.linalg.solve(inner, right)) - theta
        largest = float(np.abs(step).max())
        theta += step * min(1.0, 1 / largest if largest > 0 else 1.0)
        if largest < _STILL:
            break
    return Coefficients(base, {level.key: deviation(level) for level in levels})
