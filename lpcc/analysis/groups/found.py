"""The channels of a graph in groups, and how they are said to people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lpcc.analysis.groups.labels import Array, Axes


@dataclass(frozen=True, eq=False)
class Member:
    """An axis of a tensor along which the channels of a group stand."""

    name: str
    """Of the tensor."""
    axis: int
    places: Array
    """Where each channel stands along the axis, (channels, places of one channel), ascending."""

    def __str__(self) -> str:
        each = self.places.shape[1]
        return f"{self.name}[{self.axis}]" + (f" x{each}" if each > 1 else "")


@dataclass(frozen=True, eq=False)
class Layer:
    """A node that sums over channels, makes channels, or both. A depthwise convolution only makes them."""

    name: str
    """Of the node, or of its first output where it has none."""
    op: str
    inputs: tuple[str, ...]
    """Names of the tensors that it reads: the data, the weights, the bias; empty for one that is missing."""
    output: str
    reads: Array | None
    """Channel at each place of the axis that it sums over; None where that has none."""
    makes: Array | None
    """Channel at each place of the axis that it makes; None where that has none."""

    def __str__(self) -> str:
        return f"{self.op} `{self.name}`"


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that stand in the same tensors, along the same axes. Any of them may be removed, but not all.

    `str` says a group in a few lines.
    """

    channels: Array
    """Their numbers, (n,), ascending."""
    weights: tuple[Member, ...]
    """Constants that hold numbers for each channel: what is deleted of each."""
    tensors: tuple[Member, ...]
    """Tensors that are computed and hold the channels."""
    makers: tuple[Layer, ...]
    """Layers whose results the channels are."""
    readers: tuple[Layer, ...]
    """Layers that sum over the channels: all that a removed channel had to say it said to these."""
    pinned: str | None
    """Why none of them can be removed; None where they can."""

    def __len__(self) -> int:
        return len(self.channels)

    def __str__(self) -> str:
        state = "free" if self.pinned is None else f"pinned: {self.pinned}"
        lines = [f"{len(self)} channel{'s'[: len(self) != 1]}, {state}"]
        for title, parts in (
            ("made by", self.makers),
            ("read by", self.readers),
            ("weights", self.weights),
            ("tensors", self.tensors),
        ):
            if parts:
                lines.append(f"  {title} {', '.join(map(str, parts))}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The channels of the main graph: numbered from 0; those that can only be removed together have one number.

    **What removing a channel means.** The network without a channel computes what the network with it computes if the
    channel is zero in every tensor that holds it (`lpcc.passes.prune.zeroed` writes that network). As operators either
    treat each channel alone or sum over channels, that is: the layers that sum over it do not see it.

    It knows tensors by name, so it is true of every clone of its graph.
    """

    labels: Mapping[str, Axes]
    """By name of a tensor: for each axis the channel at each of its places; None for an axis that has none."""
    constants: frozenset[str]
    """Which of these tensors are constants."""
    layers: tuple[Layer, ...]
    """Those that make channels or sum over them, in the order of the graph."""
    reasons: Mapping[int, str]
    """Why a channel is pinned."""
    count: int
    """How many channels there are, pinned ones included."""
    entries: Mapping[str, tuple[int | None, ...]]
    """By name of a tensor that says a shape or a place: its elements, None for those that differ from run to run."""
    picked: Mapping[str, Mapping[int, Array]]
    """By name of the result of a Slice or Gather: for each axis that is cut, the places that are picked."""

    @cached_property
    def free(self) -> Array:
        """Whether a channel can be removed, bool (count,)."""
        found = np.ones(self.count, dtype=bool)
        found[list(self.reasons)] = False
        return found

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All channels that some layer makes or sums over, in groups, in the order of the graph."""
        return _grouped(self)

    def kept(self, channels: Collection[int] | Array) -> dict[str, dict[int, Array]]:
        """By name of a tensor and axis: which places would be left without these channels, bool (places,).

        Tensors and axes that hold none of them are left out.
        """
        gone = np.zeros(self.count, dtype=bool)
        gone[np.asarray(list(channels), dtype=np.intp)] = True
        found: dict[str, dict[int, Array]] = {}
        for name, axes in self.labels.items():
            for axis, line in enumerate(axes):
                if line is not None and gone[line].any():
                    found.setdefault(name, {})[axis] = ~gone[line]
        return found

    def emptied(self, channels: Collection[int] | Array) -> tuple[str, ...]:
        """Names of the tensors that would have nothing left without these channels."""
        kept = self.kept(channels)
        return tuple(name for name, axes in kept.items() if not all(places.any() for places in axes.values()))


def _grouped(found: ChannelGroups) -> tuple[Group, ...]:
    touched = np.zeros(found.count, dtype=bool)
    for layer in found.layers:
        for line in (layer.reads, layer.makes):
            if line is not None:
                touched[line] = True
    holders: list[tuple[str, int, Array]] = []
    signatures: list[list[tuple[int, int]]] = [[] for _ in range(found.count)]
    for name, axes in found.labels.items():
        for axis, line in enumerate(axes):
            if line is None:
                continue
            channels, counts = np.unique(line, return_counts=True)
            for channel, count in zip(channels.tolist(), counts.tolist(), strict=True):
                if touched[channel]:
                    signatures[channel].append((len(holders), count))
            holders.append((name, axis, line))
    alike: dict[tuple[str | None, tuple[tuple[int, int], ...]], list[int]] = {}
    for channel in np.flatnonzero(touched).tolist():
        alike.setdefault((found.reasons.get(channel), tuple(signatures[channel])), []).append(channel)
    makers: dict[int, list[Layer]] = {}
    readers: dict[int, list[Layer]] = {}
    for layer in found.layers:
        for line, side in ((layer.makes, makers), (layer.reads, readers)):
            for channel in () if line is None else np.unique(line).tolist():
                side.setdefault(channel, []).append(layer)
    groups = []
    for (reason, signature), channels_of in alike.items():
        channels = np.asarray(channels_of)
        members = [Member(holders[at][0], holders[at][1], places_of(holders[at][2], channels)) for at, _ in signature]
        groups.append(
            Group(
                channels,
                tuple(member for member in members if member.name in found.constants),
                tuple(member for member in members if member.name not in found.constants),
                tuple(makers.get(channels_of[0], ())),
                tuple(readers.get(channels_of[0], ())),
                reason,
            )
        )
    return tuple(groups)


def places_of(line: Array, channels: Array) -> Array:
    """Where each of the channels, which are equally frequent, stands along an axis, (channels, places)."""
    order = np.argsort(line, kind="stable")
    order = order[np.isin(line[order], channels)]
    return np.asarray(order.reshape(len(channels), -1))
