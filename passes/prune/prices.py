"""What a network would cost on a target without some of its channels, asked often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.analysis.kernels import Kernel, Resizable
from lpcc.analysis.macs import bytes_of, resident, weight_bytes
from lpcc.analysis.shapes import Shapes, bind
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel, Totals
from lpcc.cost.processor import Processor
from lpcc.cost.row_stationary import RowStationary
from lpcc.graph import clone
from lpcc.passes.prune.removal import remove
from lpcc.target import Target

Array = np.ndarray[Any, Any]

_SAID: Final = {"Reshape": 1, "Expand": 1, "Resize": 3, "Pad": 1}
"""Which input says the sizes of the result, or how much is added."""

_REBUILT: Final = frozenset(["Constant", "ConstantOfShape", "Gather", "Shape"])
"""Operators that do not stay as they are where a tensor that they read or make shrinks."""

_MOST_AXES: Final = 8

_WINDOWS: Final = frozenset(["Conv", "MaxPool", "AveragePool"])


class Prices:
    """Prices of one annotated graph without some of its channels: what `CostModel.estimate` says of it after `remove`.

    The price depends on how many channels are left along each axis, and on nothing else of them: the kernels of a copy
    whose weights hold no numbers are measured again with other sizes, those alone that a question changes. Where
    removal changes more than sizes (a Slice that becomes a Gather, shapes that are computed), or the target's hardware
    looks at the weights (their zeros, how many differ), channels are removed from a clone; `is_quick` says which.
    Answers are kept. The graph itself is never changed; it may not change while it is asked about.
    """

    def __init__(self, graph: gs.Graph, found: ChannelGroups, target: Target) -> None:
        self._graph = graph
        self._found = found
        self._model = CostModel(target)
        self._known: dict[bytes, Totals] = {}
        self._lines, self._starts, places = _lines(found)
        self._full = np.diff(np.append(self._starts, len(self._lines)))
        self.is_quick: bool = isinstance(target.machine, Processor | RowStationary) and _keeps_form(
            graph, found, {name for name, _ in places}
        )
        """Whether a question only changes sizes."""
        if self.is_quick:
            self._sized = _Sized(graph, found, target, places, self._full)

    def price(self, removed: Array) -> Totals:
        """Cost of one inference without the channels that `removed`, bool (found.count,), says.

        Raises:
            UsageError: a channel is pinned, or a tensor would have nothing left, as for `remove`.
        """
        counts = self._full if not len(self._starts) else np.add.reduceat(~removed[self._lines], self._starts)
        if not self.is_quick:
            return self._rebuilt(removed)
        if np.any(removed & ~self._found.free) or not counts.all():
            remove(clone(self._graph), self._found, np.flatnonzero(removed))  # says why it cannot be
        key = counts.tobytes()
        if key not in self._known:
            self._known[key] = self._model.totals(*self._sized.to(counts))
        return self._known[key]

    def _rebuilt(self, removed: Array) -> Totals:
        key = removed.tobytes()
        if key not in self._known:
            trial = clone(self._graph)
            remove(trial, self._found, np.flatnonzero(removed))
            annotate(trial)
            self._known[key] = self._model.totals(self._model.kernels(trial, bind(trial)), weight_bytes(trial))
        return self._known[key]


class _Sized:
    """A copy of a graph that has sizes and no weights, and its kernels."""

    def __init__(
        self, graph: gs.Graph, found: ChannelGroups, target: Target, places: dict[tuple[str, int], int], full: Array
    ) -> None:
        self._graph = clone(graph)
        self._target = target
        self._sizes = dict(bind(self._graph).found)
        self._shapes = Shapes(self._sizes)
        self._counts = full
        self._axes: dict[int, list[tuple[int, int]]] = {}  # by id of a tensor: its axes, each with its line
        self._holders: list[list[gs.Tensor]] = [[] for _ in full]  # by line
        self._fill: dict[int, Array] = {}  # by id of a constant: a number that stands for its values
        alike: dict[object, int] = {}
        for tensor in _tensors(self._graph):
            axes = [(axis, places[tensor.name, axis]) for axis in range(_MOST_AXES) if (tensor.name, axis) in places]
            if not axes:
                continue
            self._axes[id(tensor)] = axes
            for line in {line for _, line in axes}:
                self._holders[line].append(tensor)
            if isinstance(tensor, gs.Constant):
                number = alike.setdefault((str(tensor.dtype), tuple(tensor.shape), tensor.values.tobytes()), len(alike))
                self._fill[id(tensor)] = np.asarray(number + 0.5).astype(tensor.dtype)
                tensor.values = np.broadcast_to(self._fill[id(tensor)], tensor.shape)
        convs = [node for node in self._graph.nodes if edit.op(node) in ("Conv", "ConvTranspose")]
        lines = [(node, _depthwise(node, found, places)) for node in convs]
        self._depthwise = [(node, line) for node, line in lines if line is not None]
        self._resident = resident(self._graph)
        self._kernels = self._found_anew()
        self._resized: dict[int, gs.Tensor] = {}  # since the last question

    def to(self, counts: Array) -> tuple[tuple[Kernel, ...], int]:
        """The kernels with as many places along each line, and the bytes of the weights."""
        changed = {id(t): t for line in np.flatnonzero(counts != self._counts) for t in self._holders[line]}
        sizes = counts.tolist()
        for key, tensor in changed.items():
            axes = self._axes[key]
            if isinstance(tensor, gs.Constant):
                tensor.values = np.broadcast_to(self._fill[key], _resized(tensor.shape, axes, sizes))
                continue
            if tensor.shape is not None:
                tensor.shape = _resized(tensor.shape, axes, sizes)
            if key in self._sizes:
                self._sizes[key] = tuple(_resized(self._sizes[key], axes, sizes))
        for node, line in self._depthwise:
            node.attrs["group"] = sizes[line]
        self._counts = counts
        self._resized |= changed
        if counts.size and counts.min() == 1:  # broadcasts, is as a scalar: may be another kernel, or none
            return self._found_anew().kernels(), bytes_of(self._resident)
        resized, self._resized = self._resized, {}
        return self._kernels.kernels(resized.values()), bytes_of(self._resident)

    def _found_anew(self) -> Resizable:
        return Resizable(self._graph, self._shapes, self._target.runtime, self._target.isa)


def _resized(shape: Sequence[Any], axes: Iterable[tuple[int, int]], sizes: Sequence[int]) -> list[Any]:
    found = list(shape)
    for axis, line in axes:
        found[axis] = sizes[line]
    return found


def _lines(found: ChannelGroups) -> tuple[Array, Array, dict[tuple[str, int], int]]:
    """The channels along all axes, each different line once, one after the other; where each starts; whose it is."""
    number: dict[bytes, int] = {}
    lines: list[Array] = []
    places: dict[tuple[str, int], int] = {}
    for name, axes in found.labels.items():
        for axis, line in enumerate(axes):
            if line is None or not len(line) or not found.free[line].any():
                continue
            key = line.tobytes()
            if key not in number:
                number[key] = len(lines)
                lines.append(line)
            places[name, axis] = number[key]
    starts = np.cumsum([0, *map(len, lines)], dtype=np.intp)[:-1]
    return np.concatenate([np.zeros(0, dtype=np.intp), *lines]), starts, places


def _tensors(graph: gs.Graph) -> Iterable[gs.Tensor]:
    """All tensors of the nodes of a graph, each once."""
    return {id(t): t for node in graph.nodes for t in (*node.inputs, *node.outputs) if t.name}.values()


def _depthwise(node: gs.Node, found: ChannelGroups, places: dict[tuple[str, int], int]) -> int | None:
    """The line of the channels of a convolution that has as many groups as channels."""
    groups = int(edit.attr(node, "group", 1))
    line = found.labels.get(node.inputs[0].name, (None, None))[1]
    alone = groups > 1 and line is not None and len(line) == groups and node.inputs[1].name in found.labels
    return places.get((node.inputs[0].name, 1)) if alone else None


def _keeps_form(graph: gs.Graph, found: ChannelGroups, shrinking: Set[str]) -> bool:
    """Whether removal of channels changes sizes of tensors, numbers that say them, and nothing else."""
    return (
        all(
            _node_keeps_form(node, found)
            for node in graph.nodes
            if any(tensor.name in shrinking for tensor in (*node.inputs, *node.outputs))
        )
        and all(
            tensor.dtype is not None and np.dtype(tensor.dtype).kind in "fV"
            for tensor in _tensors(graph)
            if isinstance(tensor, gs.Constant) and tensor.name in shrinking
        )
        and not _twins(graph, shrinking)
    )


def _twins(graph: gs.Graph, shrinking: Set[str]) -> bool:
    """Whether two nodes that say sizes do the same but for these: the runtime merges those that say the same."""
    marks: dict[int, object] = {}  # by id of a tensor: equal where the runtime sees the same
    seen: set[object] = set()

    def mark(tensor: gs.Tensor) -> object:
        if isinstance(tensor, gs.Constant) and tensor.name not in shrinking:
            return str(tensor.dtype), tuple(tensor.shape), np.asarray(tensor.values).tobytes()
        return marks.get(id(tensor), id(tensor))

    for node in graph.nodes:
        read = [mark(tensor) for place, tensor in enumerate(node.inputs) if place != _SAID.get(edit.op(node))]
        key = (edit.op(node), repr(sorted(node.attrs.items(), key=str)), tuple(read))
        if key in seen and edit.op(node) in _SAID and any(tensor.name in shrinking for tensor in node.outputs):
            return True
        seen.add(key)
        for place, tensor in enumerate(node.outputs):
            marks[id(tensor)] = key, place
    return False


def _node_keeps_form(node: gs.Node, found: ChannelGroups) -> bool:
    op = edit.op(node)
    if op in _REBUILT or edit.subgraphs(node):
        return False
    if op == "Slice" and found.picked.get(node.outputs[0].name):
        return False
    if op == "Split":
        return "split" in node.attrs or _own(node, 1)
    if op == "Pad" and any(edit.op(user) in _WINDOWS for user in node.outputs[0].outputs):
        return False
    if op not in _SAID or edit.inp(node, _SAID[op]) is None:
        return True
    entries = found.entries.get(node.inputs[_SAID[op]].name, ())
    return _own(node, _SAID[op]) or all(entry in (None, -1) for entry in entries)


def _own(node: gs.Node, place: int) -> bool:
    """Whether an input is a constant that no other node reads."""
    tensor = edit.inp(node, place)
    return isinstance(tensor, gs.Constant) and len(tensor.outputs) == 1
