"""``lpcc inspect --groups``: the channels that can only be removed together."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.analysis.groups import ChannelGroups, Layer, Member

_NAMED = 2
"""Layers of a group that are named."""


def groups_of(graph: gs.Graph) -> ChannelGroups:
    """The channel groups of a model as passes find them: after the exact passes, which do not change `graph`."""
    from lpcc.analysis.groups import channel_groups
    from lpcc.graph import clone
    from lpcc.pipeline import Context, Pipeline
    from lpcc.pipeline.runner import run_pipeline

    exact = clone(graph)
    run_pipeline(exact, Pipeline.parse("exact"), Context())
    return channel_groups(exact)


def groups_to_plain(found: ChannelGroups) -> list[dict[str, Any]]:
    """The groups as plain data."""
    return [
        {
            "channels": len(group),
            "pinned": group.pinned,
            "made_by": [layer.name for layer in group.makers],
            "read_by": [layer.name for layer in group.readers],
            "weights": [_member(member) for member in group.weights],
            "tensors": [_member(member) for member in group.tensors],
        }
        for group in found.groups
    ]


def _member(member: Member) -> dict[str, Any]:
    return {"name": member.name, "axis": member.axis, "places_per_channel": int(member.places.shape[1])}


def group_lines(found: ChannelGroups, width: int) -> Iterator[str | tuple[str, str]]:
    """A table of the groups, and why some of them stay."""
    from lpcc.report.table import Column, table

    columns = [
        Column("group", right=True),
        Column("channels", right=True),
        Column("made by", elastic=True),
        Column("read by", elastic=True),
        Column("weights", right=True, drop=1),
        Column("tensors", right=True, drop=2),
        Column("state"),
    ]
    rows = [
        [
            str(number),
            str(len(group)),
            _named(group.makers),
            _named(group.readers),
            str(len(group.weights)),
            str(len(group.tensors)),
            "free" if group.pinned is None else "pinned",
        ]
        for number, group in enumerate(found.groups, start=1)
    ]
    free = [group for group in found.groups if group.pinned is None]
    yield ""
    yield ("channels that can only be removed together, after the exact passes", "bold")
    yield from table(columns, rows, width)
    yield f"{sum(map(len, free))} channels in {len(free)} groups can be removed"
    for number, group in enumerate(found.groups, start=1):
        if group.pinned is not None:
            text = f"group {number} stays: {group.pinned}"
            yield from textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)


def _named(layers: tuple[Layer, ...]) -> str:
    """The first few layers by name, and how many more there are."""
    shown = ", ".join(layer.name for layer in layers[:_NAMED])
    more = len(layers) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
