"""How many channels of each group go: alike everywhere, by scores, or by measured damage, until a goal is met.

Each way is a family of counts over a level from 0 to 1 that never falls: at 0 nothing goes, at 1 all but one channel
of each group, whatever damage that does. A goal picks the lowest level that meets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcc.passes.prune.multiples import kept_counts
from lpcc.passes.prune.ranking import Counts, Ranked, Ranking

Array = np.ndarray[Any, Any]

Family = Callable[[float], Counts]
"""From a level to how many channels of each group go."""

_HALVINGS = 30
_PARTS = 64
"""Lower levels at which is looked for counts to go back to."""
_TINY = 1e-12


def uniform(ranking: Ranking) -> Family:
    """The same share of each group, rounded down: the level itself (Li et al. 2017, arXiv 1608.08710)."""
    return lambda level: {group.name: min(int(level * len(group) + 1e-9), len(group) - 1) for group in ranking.groups}


def by_score(ranking: Ranking, scores: Array) -> Family:
    """All channels whose score, comparable over layers, is below one threshold; the level is their share of all.

    `scores` are (found.count,); one channel of each group stays, the best.
    """
    mine = {group.name: scores[group.order] for group in ranking.groups}
    pool = np.sort(np.concatenate([np.maximum.accumulate(values)[:-1] for values in mine.values()]))

    def family(level: float) -> Counts:
        threshold = pool[min(int(level * len(pool)), len(pool) - 1)] if level < 1 and len(pool) else np.inf
        return {name: int((np.maximum.accumulate(values)[:-1] < threshold).sum()) for name, values in mine.items()}

    return family


@dataclass(frozen=True)
class Curve:
    """Damage done by removing some channels of one group, measured at some counts, straight lines in between."""

    counts: tuple[int, ...]
    """From 0, ascending."""
    damages: tuple[float, ...]
    """Never falling; infinite where the network broke."""

    @classmethod
    def through(cls, points: Mapping[int, float]) -> Curve:
        """The curve through measured damages by count; of a measured fall, by chance, nothing is left."""
        counts = sorted(points)
        damages = np.maximum.accumulate([points[count] for count in counts])
        return cls(tuple(counts), tuple(damages.tolist()))

    def damage(self, count: int) -> float:
        """Damage at a count; infinite beyond the last one that was measured."""
        return float(np.interp(count, self.counts, self.damages)) if count <= self.counts[-1] else np.inf

    def slopes(self, size: int) -> Array:
        """What each of the first ``size - 1`` channels adds to the damage, (size - 1,), never falling.

        Between counts that were measured it changes gradually; of what was not measured, or broke, it is infinite.
        """
        counts, damages = np.asarray(self.counts, dtype=float), np.asarray(self.damages)
        known = np.isfinite(damages)
        counts, damages = counts[known], damages[known]
        if len(counts) < 2:
            return np.full(size - 1, np.inf)
        steps = np.maximum.accumulate(np.diff(damages) / np.diff(counts))
        found = np.interp(np.arange(1, size) - 0.5, (counts[1:] + counts[:-1]) / 2, steps)
        return np.where(np.arange(1, size) <= counts[-1], found, np.inf)


def by_damage(ranking: Ranking, curves: Mapping[str, Curve], worth: Mapping[str, float], multiple: int = 1) -> Family:
    """Of each group as many as do no more damage, for what they are worth, than one more step would do elsewhere.

    With D(n) the damage of a group that alone loses n channels and w what each of these saves (`worth`, by name of the
    group), a step from n to n' costs ``(D(n') - D(n)) / (w (n' - n))``, D smoothed over the counts that were measured,
    its slope never falling. All steps are made that cost no more than one limit, as a Lagrange multiplier
    demands; the level is its rank among all. Steps are from one number of channels that suits kernels to the next
    (`kept_counts` of `multiple`).
    """
    counts, prices = {}, {}
    for group in ranking.groups:
        size = len(group)
        counts[group.name] = [size - kept for kept in reversed(kept_counts(group.group, multiple))]
        damages = np.concatenate([[0.0], np.cumsum(curves[group.name].slopes(size))])[counts[group.name]]
        with np.errstate(invalid="ignore"):  # beyond what was measured: infinite less infinite
            steps = np.diff(damages) / np.diff(counts[group.name])
        steps = np.where(np.isnan(steps), np.inf, steps)
        prices[group.name] = np.maximum.accumulate(steps) / max(worth[group.name], _TINY)
    pool = np.sort(np.concatenate([found[np.isfinite(found)] for found in prices.values()]))

    def family(level: float) -> Counts:
        index = int(level * len(pool)) - 1
        limit = np.inf if level >= 1 else float(pool[index]) if index >= 0 else -np.inf
        return {name: counts[name][int((found <= limit).sum())] for name, found in prices.items()}

    return family


def by_even_damage(ranking: Ranking, curves: Mapping[str, Curve], multiple: int = 1) -> Family:
    """Of each group as many as do no more damage, when it alone loses them, than one limit; the level is its rank.

    Steps are from one number of channels that suits kernels to the next (`kept_counts` of `multiple`).
    """
    counts, damages = {}, {}
    for group in ranking.groups:
        size, curve = len(group), curves[group.name]
        counts[group.name] = [size - kept for kept in reversed(kept_counts(group.group, multiple))]
        damages[group.name] = np.array([curve.damage(count) for count in counts[group.name]])
    pool = np.sort(np.concatenate([found[np.isfinite(found) & (found > 0)] for found in damages.values()]))

    def family(level: float) -> Counts:
        index = int(level * len(pool)) - 1
        limit = np.inf if level >= 1 else float(pool[index]) if index >= 0 else 0.0
        return {name: counts[name][int((found <= limit).sum()) - 1] for name, found in damages.items()}

    return family


def lowest(family: Family, holds: Callable[[Counts], bool]) -> Counts | None:
    """The counts at the lowest level that holds; None where even the highest does not.

    Where many groups take a long step at one level, as to the next multiple, more goes than need be: then groups go
    back in turns, a step each, as long as it holds.
    """
    if not holds(family(1.0)):
        return None
    if holds(family(0.0)):
        return family(0.0)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(family(middle)) else (middle, high)
    counts = family(high)
    lower = [family(high * part / _PARTS) for part in range(_PARTS)]
    steps = {name: sorted({found[name] for found in lower if found[name] < count}) for name, count in counts.items()}
    while any(steps.values()):
        for name in steps:
            if not steps[name]:
                continue
            spared = {**counts, name: steps[name].pop()}
            if holds(spared):
                counts = spared
            else:
                steps[name] = []
    return counts


def on_multiples(group: Ranked, count: int, multiple: int) -> int:
    """How many channels of a group go so that what is left suits kernels (`kept_counts`): the nearest to `count`."""
    wanted = len(group) - count
    return len(group) - min(kept_counts(group.group, multiple), key=lambda kept: (abs(kept - wanted), -kept))
