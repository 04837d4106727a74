"""Channels in the order in which they go, group by group, by a criterion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from lpcc.analysis.groups import ChannelGroups, Group

Array = np.ndarray[Any, Any]

Counts = Mapping[str, int]
"""How many channels of a group go, by its name; groups that are not listed lose none."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """A group some of whose channels can go."""

    name: str
    """Of the first layer that makes it; with its place among the groups of that layer, ``#2``, where that has several.

    So a name without a number is that of a layer whose channels are all here.
    """
    layers: tuple[str, ...]
    """Names of all layers that make it."""
    order: Array
    """Its channels, the first to go first."""
    group: Group
    """The group itself."""

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True, eq=False)
class Ranking:
    """All groups of a graph that can lose channels, in the order of the graph."""

    groups: tuple[Ranked, ...]
    refused: Mapping[str, str]
    """By name, groups that can not, though nothing pins them, and why."""

    @classmethod
    def of(cls, found: ChannelGroups, scores: Array, skip: Collection[str]) -> Ranking:
        """The free channels by their scores (found.count,), those of equal score in the order of the graph.

        Groups that a layer of `skip` makes, and channels without a score, are left out.
        """
        groups: list[Ranked] = []
        refused: dict[str, str] = {}
        free = [group for group in found.groups if group.pinned is None and group.makers]
        names = _names(free)
        for group, name in zip(free, names, strict=True):
            layers = tuple(layer.name for layer in group.makers)
            if any(layer in skip for layer in layers):
                continue
            known = group.channels[np.isfinite(scores[group.channels])]
            if len(known) < len(group):
                refused[name] = "the criterion says nothing of its channels"
                continue
            order = known[np.argsort(scores[known], kind="stable")]
            groups.append(Ranked(name, layers, order, group))
        return cls(tuple(groups), refused)

    @cached_property
    def by_name(self) -> Mapping[str, Ranked]:
        """The groups by name."""
        return {group.name: group for group in self.groups}

    @property
    def size(self) -> int:
        """How many channels all of these groups have."""
        return sum(map(len, self.groups))

    def channels(self, counts: Counts) -> Array:
        """The first so many channels of each group, ascending."""
        chosen = [self.by_name[name].order[:count] for name, count in counts.items() if count]
        return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.intp)


def _names(groups: Sequence[Group]) -> list[str]:
    """A name for each group; see `Ranked.name`."""
    whole = Counter(name for group in groups for name in {layer.name for layer in group.makers})
    so_far: Counter[str] = Counter()
    taken = set(whole)
    found = []
    for group in groups:
        so_far.update({layer.name for layer in group.makers})
        name = group.makers[0].name
        if whole[name] > 1:
            places = (f"{name}#{place}" for place in count(so_far[name]))
            name = next(each for each in places if each not in taken)
            taken.add(name)
        found.append(name)
    return found
