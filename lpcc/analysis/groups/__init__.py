"""Which channels of a graph can only be removed together, and all that goes with each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lpcc import edit
from lpcc.analysis.groups.found import ChannelGroups, Group, Layer, Member
from lpcc.analysis.groups.labels import Array, Trace
from lpcc.analysis.groups.rules import follow
from lpcc.analysis.shape_values import shape_values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["ChannelGroups", "Group", "Layer", "Member", "channel_groups"]


def channel_groups(graph: gs.Graph) -> ChannelGroups:
    """The channels of the main graph, whose nodes are in topological order. Linear in its size.

    Every axis of every tensor carries a label for each of its places, or none. Layers make labels; operators hand them
    on; where two labels meet at one place, as in a sum, they are one channel from there on. What cannot be followed
    pins the labels that it touches, with the reason.
    """
    trace = Trace(shape_values(graph), int(graph.opset))
    follow(trace, graph)
    _pin_what_cannot_go(trace)
    numbers, reasons = trace.labels.numbered()

    def of(line: Array | None) -> Array | None:
        return None if line is None else np.asarray(numbers[line])

    layers = []
    for node, reads, makes in trace.layers:
        if reads is not None or makes is not None:
            names = tuple(str(tensor.name) for tensor in node.inputs)
            layers.append(Layer(edit.label(node), edit.op(node), names, node.outputs[0].name, of(reads), of(makes)))
    return ChannelGroups(
        {name: tuple(map(of, axes)) for name, axes in trace.axes.items() if any(axis is not None for axis in axes)},
        frozenset(trace.constants),
        tuple(layers),
        reasons,
        int(numbers.max(initial=-1)) + 1,
        trace.entries,
        trace.picked,
    )


def _pin_what_cannot_go(trace: Trace) -> None:
    """Pin what no layer makes or sums over, and what is alone along an axis, which would have nothing left."""
    labels = trace.labels
    touched = {
        labels.root(label)
        for _, reads, makes in trace.layers
        for line in (reads, makes)
        if line is not None
        for label in np.unique(line).tolist()
    }
    for label in range(len(labels)):
        if labels.root(label) == label and label not in touched:
            labels.pin(np.asarray([label]), "no layer makes it or sums over it")
    for name, axes in trace.axes.items():
        for line in axes:
            if line is not None and len(line) and len(np.unique(labels.roots(line))) == 1:
                labels.pin(line[:1], f"`{name}` has no other channel")
