"""From prices and damages of single layers to an assignment of which the whole network keeps to what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from lpcc.search import Infeasible, choose
from lpcc.search.knapsack import Option

Assignment = dict[str, str]
"""A choice by name of a layer."""

_ROUNDS = 8
_MARGIN = 1e-3
_FINEST = 1e-3
"""Least share of all possible damage that is told apart from none."""


_SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of the way from the milliseconds asked for to the least possible: what is tried."""
_WITH_NEIGHBOURS = "16"
"""The choice whose damage depends on the neighbours': what it gains is lost where the next layer has 8 bits."""


@dataclass(frozen=True)
class Outcome:
    """What a whole network takes, or may take: bytes, milliseconds, percent of images whose highest class changed.

    `noise` is the distance of its outputs (`lpcc.quality.noise`), which no goal limits.
    """

    bytes: float
    ms: float
    changed: float
    noise: float = 0.0

    def excess(self, goal: Outcome) -> Outcome:
        """By how much it misses a goal; zero where it does not."""
        pairs = ((self.bytes, goal.bytes), (self.ms, goal.ms), (self.changed, goal.changed))
        return Outcome(*(max(0.0, found - asked * (1 + 1e-9)) for found, asked in pairs))

    @property
    def met(self) -> bool:
        """Whether an excess is none."""
        return self.bytes == self.ms == self.changed == 0


@dataclass(frozen=True)
class Choices:
    """For each layer the choices with their damage, bytes and milliseconds."""

    layers: tuple[str, ...]
    options: tuple[Mapping[str, Option], ...]

    def uniform(self) -> Iterator[Assignment]:
        """One choice for all layers, for each choice."""
        for choice in self.options[0] if self.options else ():
            yield dict.fromkeys(self.layers, choice)

    def narrowed(self) -> Iterator[Choices]:
        """The same without one of the choices, for each; none where damages simply add up."""
        names = list(self.options[0]) if self.options else []
        if _WITH_NEIGHBOURS not in names or len(names) < 2:
            return
        for left_out in names:
            kept = [{name: o for name, o in options.items() if name != left_out} for options in self.options]
            yield Choices(self.layers, tuple(kept))

    def best(self, minimise: str, limits: Mapping[str, float]) -> Assignment:
        """The assignment of least total of one quantity within limits of others. Raises Infeasible."""
        finite = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
        chosen = choose([list(options.values()) for options in self.options], minimise, finite)
        pairs = zip(self.layers, self.options, chosen, strict=True)
        return {layer: list(options)[place] for layer, options, place in pairs}

    def ends(self, name: str) -> tuple[float, float]:
        """The least and the greatest total of a quantity, leaving out what is infinite."""
        finite = [[o[name] for o in options.values() if math.isfinite(o[name])] for options in self.options]
        return math.fsum(min(group, default=0.0) for group in finite), math.fsum(max(g, default=0.0) for g in finite)


Outcomes = Callable[[Assignment], Outcome]
"""What the network with an assignment takes."""


def least_damage(choices: Choices, base: Outcome, goal: Outcome, outcome_of: Outcomes) -> Assignment:
    """The assignment of least damage whose network keeps to the bytes and milliseconds of `goal`.

    `base` is the network in which every layer has what its options are relative to. Damages of single layers do not
    show what neighbours in 16 bits gain together, so with that choice it is also solved without each of the choices.
    Nor is their sum the noise of the network, and a faster one may be quieter: where time is limited, shorter times are
    tried, too. So is one choice for all layers. Of what keeps to the goal the network of least noise counts.

    Raises:
        Infeasible: there is none.
    """
    limited = replace(goal, changed=math.inf)
    found: list[Assignment] = []
    failed = None
    for options, ms in product((choices, *choices.narrowed()), _stricter(choices, base, goal)):
        try:
            found.append(_least_sum(options, base, replace(limited, ms=ms), outcome_of))
        except Infeasible as error:
            failed = failed or error
    found += [same for same in choices.uniform() if outcome_of(same).excess(limited).met]
    if failed is not None and not found:
        raise failed
    return min(found, key=lambda assignment: outcome_of(assignment).noise)


def _stricter(choices: Choices, base: Outcome, goal: Outcome) -> list[float]:
    """The milliseconds of a goal and, where these are limited, some between them and the least possible."""
    if not math.isfinite(goal.ms):
        return [goal.ms]
    least = base.ms + choices.ends("ms")[0]
    return [goal.ms + share * (least - goal.ms) for share in _SHARES]


def _least_sum(choices: Choices, base: Outcome, goal: Outcome, outcome_of: Outcomes) -> Assignment:
    """The assignment of the least sum of damages. Raises Infeasible.

    What layers share, or convert between them, makes sums of their prices inexact: limits that the network misses are
    tightened by as much.
    """
    limits = {"bytes": goal.bytes - base.bytes, "ms": goal.ms - base.ms}
    for _ in range(_ROUNDS):
        found = choices.best("damage", limits)
        excess = outcome_of(found).excess(goal)
        if excess.met:
            return found
        limits["bytes"] -= excess.bytes
        limits["ms"] -= excess.ms * (1 + _MARGIN)
    raise Infeasible(f"after {_ROUNDS} rounds the network still misses its limits")


def least_bytes(choices: Choices, base: Outcome, goal: Outcome, outcome_of: Outcomes) -> Assignment:
    """The smallest assignment whose network changes no more of the highest classes than `goal` says.

    The greatest sum of damages under which it does is found by bisection: more damage gives a smaller network. One
    choice for all layers is tried, too.

    Raises:
        Infeasible: there is none.
    """
    found = [same for same in choices.uniform() if outcome_of(same).excess(goal).met]
    try:
        found.insert(0, _most_damage(choices, base, goal, outcome_of))
    except Infeasible:
        if not found:
            raise
    return min(found, key=lambda assignment: outcome_of(assignment).bytes)


def _most_damage(choices: Choices, base: Outcome, goal: Outcome, outcome_of: Outcomes) -> Assignment:
    """The smallest assignment of the greatest sum of damages that `goal` bears. Raises Infeasible."""
    limits = {"bytes": goal.bytes - base.bytes, "ms": goal.ms - base.ms}
    least, most = choices.ends("damage")

    def tried(damage: float) -> tuple[Assignment, bool]:
        found = choices.best("bytes", {**limits, "damage": damage})
        return found, outcome_of(found).excess(goal).met

    found, met = tried(most)
    if met:
        return found
    lowest = choices.best("damage", limits)
    best = lowest if outcome_of(lowest).excess(goal).met else None
    if best is None:
        raise Infeasible("even with the least damage that is possible the network changes more highest classes")
    low, high = math.log(_FINEST), 0.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        try:
            found, met = tried(least + (most - least) * math.exp(middle))
        except Infeasible:
            met = False
            low = middle
            continue
        if met:
            best, low = found, middle
        else:
            high = middle
    return best


def options_of(
    layers: Sequence[str],
    choices: Sequence[str],
    damage: Callable[[str, str], float],
    size: Callable[[str, str], float],
    latency: Mapping[tuple[str, str], float],
) -> Choices:
    """The choices of all layers, with bytes and milliseconds relative to those at 8 bits."""
    options = [
        {
            choice: {
                "damage": damage(layer, choice),
                "bytes": size(layer, choice) - size(layer, "8"),
                "ms": latency.get((layer, choice), 0.0),
            }
            for choice in choices
        }
        for layer in layers
    ]
    return Choices(tuple(layers), tuple(options))
