"""Which channels of a graph can only be scaled together, and which layers can take the scales in.

A channel of a tensor may be divided by s > 0 if whatever makes it can write it so divided, and whatever reads it can
undo that. Layers with constant weights can do both: their rows make channels, their columns read them. Operators that
are homogeneous, ``f(x / s) = f(x) / s`` (ReLU, its leaky and parametric forms, pooling, sums, what moves values), hand
a scale on: what they read and write is tied, and has one scale. What else touches a channel holds it at 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.bounds import clip_bounds
from lpcc.analysis.groups.labels import Labels
from lpcc.analysis.shapes import bind
from lpcc.match import NoMatch, is_float
from lpcc.passes.normalize.linear import LINEAR, Linear

Array = np.ndarray[Any, Any]

_KEEPS: Final = frozenset(
    {
        "Abs", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "LpPool", "MaxPool", "Neg",
        "PRelu", "Relu", "Resize", "Upsample",
    }
)  # fmt: skip
_REDUCES: Final = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})
_SUMS: Final = frozenset({"Add", "Max", "Mean", "Min", "Sub", "Sum"})
_RESHAPES: Final = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with constant weights that no other layer shares, and the set of each of its channels."""

    node: gs.Node
    inputs: Array
    """Number of the set of each input channel, (inputs,)."""
    outputs: Array
    """Number of the set of each output channel, (outputs,)."""


@dataclass(frozen=True, eq=False)
class Limit:
    """A Clip between `low` <= 0 and `high` > 0, at least one of them finite, and the set of each of its channels."""

    node: gs.Node
    channels: Array
    low: float
    high: float


@dataclass
class Ties:
    """The channels of a graph in sets, numbered from 0, that have one scale each."""

    count: int
    """How many sets there are."""
    held: Array
    """Whether a set cannot be scaled, bool (count,)."""
    layers: list[Layer]
    """Those that can take scales in, in the order of the graph."""
    limits: list[Limit]
    tensors: dict[str, Array]
    """By name of an activation (N, C, ...): the set of each channel."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why a set is held."""
    others: list[tuple[gs.Node, str]] = field(default_factory=list)
    """Layers that cannot take scales in, and why."""


def ties(graph: gs.Graph) -> Ties:
    """The tied channels of the main graph, whose nodes are in topological order and whose tensors have types."""
    return _Tying(graph).find()


def read_depthwise(tied: Ties) -> Ties:
    """The same sets, with all held that some layer reads together with other channels, or that no layer reads."""
    alone, together = np.zeros(tied.count, dtype=bool), np.zeros(tied.count, dtype=bool)
    for layer in tied.layers:
        is_depthwise = len(layer.inputs) == Linear.of(layer.node).groups
        (alone if is_depthwise else together)[layer.inputs] = True
    reason = "a layer reads it together with others"
    reasons = {int(place): reason for place in np.flatnonzero(together)} | tied.reasons
    return replace(tied, held=tied.held | together | ~alone, reasons=reasons)


class _Tying:
    """The channels of all tensors, joined as the nodes are gone through."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._shapes = bind(graph)
        self._sets = Labels()
        self._of: dict[int, Array | None] = {}  # by id of a tensor: its channels; None where it has none to speak of
        self._tensors: dict[int, gs.Tensor] = {}
        self._layers: list[tuple[gs.Node, Array, Array]] = []
        self._limits: list[tuple[gs.Node, Array, float, float]] = []
        self._others: list[tuple[gs.Node, str]] = []

    def find(self) -> Ties:
        for tensor in self._graph.inputs:
            self._hold([tensor], "an input of the model")
        for node in self._graph.nodes:
            reason = self._visit(node)
            if reason is not None:
                self._hold([*node.inputs, *node.outputs, *edit.captured(node)], reason)
                if edit.op(node) in LINEAR:
                    self._others.append((node, reason))
        for tensor in self._graph.outputs:
            self._hold([tensor], "an output of the model")
        numbers, reasons = self._sets.numbered()
        count = int(numbers.max(initial=-1)) + 1
        held = np.zeros(count, dtype=bool)
        held[list(reasons)] = True
        return Ties(
            count,
            held,
            [Layer(node, numbers[inputs], numbers[outputs]) for node, inputs, outputs in self._layers],
            [Limit(node, numbers[channels], low, high) for node, channels, low, high in self._limits],
            {str(self._tensors[key].name): numbers[c] for key, c in self._of.items() if c is not None and len(c)},
            reasons,
            self._others,
        )

    def _visit(self, node: gs.Node) -> str | None:
        """Tie what a node reads to what it writes; the reason where it cannot hand a scale on."""
        op = edit.op(node)
        if op in LINEAR:
            return self._layer(node)
        x = edit.inp(node, 0)
        if x is None or not node.outputs or edit.subgraphs(node):
            return f"{op} has no single input"
        source, result = self._channels(x), self._channels(node.outputs[0])
        if op in _SUMS and len(node.inputs) > 1:
            return self._sum(node)
        if op in ("Mul", "Div"):
            return self._product(node)
        if op == "Concat":
            return self._concat(node)
        if source is None or isinstance(x, gs.Constant):
            return f"{op} reads what has no channels"
        if op == "Split":
            return self._split(node, source)
        if result is None:
            return f"{op} makes what has no channels"
        if op in _KEEPS:
            if op == "Resize" and edit.attr(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
                return "Resize fills in a constant"
            return self._tie(source, result, op)
        if op in _REDUCES:
            axes = _axes(node)
            return self._tie(source, result, op) if axes and min(axes) >= 2 else f"{op} is over channels"
        if op == "Clip":
            return self._clip(node, source, result)
        if op in _RESHAPES:
            return self._reshape(x, node.outputs[0], source, result, op)
        picked = self._picked(node, source) if op in ("Gather", "Pad", "Slice") else None
        return f"{op} is not homogeneous" if picked is None else self._tie(picked, result, op)

    def _layer(self, node: gs.Node) -> str | None:
        op = edit.op(node)
        try:
            layer = Linear.of(node)
        except NoMatch as why:
            return str(why) or f"{op} does not compute in float"
        source, result = self._channels(node.inputs[0]), self._channels(node.outputs[0])
        if len(layer.weight.outputs) != 1:
            return f"the weights of {op} `{edit.label(node)}` are shared"
        if layer.rank is None or (op in ("Gemm", "MatMul") and layer.rank != 2) or edit.attr(node, "transA", 0):
            return f"{op} `{edit.label(node)}` has its channels elsewhere"
        if source is None or result is None or (len(source), len(result)) != (layer.inputs, layer.outputs):
            return f"the channels of {op} `{edit.label(node)}` are not known"
        if not np.isfinite(np.asarray(layer.weight.values)).all() or 0 in layer.weight.shape:
            return f"the weights of {op} `{edit.label(node)}` are not finite"
        self._layers.append((node, source, result))
        return None

    def _sum(self, node: gs.Node) -> str | None:
        op = edit.op(node)
        channels = [self._channels(t) for t in [*node.inputs, node.outputs[0]]]
        if any(isinstance(t, gs.Constant) for t in node.inputs):
            return f"{op} has a constant operand"
        first = channels[0]
        for other in channels:
            if first is None or other is None or len(first) != len(other):
                return f"the operands of {op} differ in channels"
        if len({self._rank(t) for t in [*node.inputs, node.outputs[0]]}) > 1:
            return f"the operands of {op} differ in rank"
        for other in channels[1:]:
            if first is not None and other is not None:
                self._sets.join(first, other)
        return None

    def _product(self, node: gs.Node) -> str | None:
        """A constant factor leaves the scale as it is, and so does a tensor whose channels are all held at 1."""
        op = edit.op(node)
        result = self._channels(node.outputs[0])
        for x, factor in ((0, 1), (1, 0)) if op == "Mul" else ((0, 1),):
            source, other = node.inputs[x], node.inputs[factor]
            if isinstance(source, gs.Constant):
                continue
            channels, held = self._channels(source), self._channels(other)
            if not isinstance(other, gs.Constant) and not (held is not None and self._sets.is_pinned(held)):
                continue
            if channels is not None and result is not None and self._rank(source) == self._rank(node.outputs[0]):
                return self._tie(channels, result, op)
        return f"{op} multiplies two activations"

    def _concat(self, node: gs.Node) -> str | None:
        channels = [self._channels(tensor) for tensor in node.inputs]
        result, rank = self._channels(node.outputs[0]), len(node.outputs[0].shape or ())
        if not rank or int(edit.attr(node, "axis", 1)) % rank != 1 or result is None:
            return "Concat joins no channels"
        known = [c for c in channels if c is not None]
        if len(known) != len(channels) or any(isinstance(t, gs.Constant) for t in node.inputs):
            return "Concat joins a constant"
        return self._tie(np.concatenate(known), result, "Concat")

    def _split(self, node: gs.Node, source: Array) -> str | None:
        rank = len(node.inputs[0].shape or ())
        parts = [self._channels(tensor) for tensor in node.outputs]
        known = [part for part in parts if part is not None]
        if not rank or len(known) != len(parts):
            return "Split makes what has no channels"
        if int(edit.attr(node, "axis", 0)) % rank == 1:
            return self._tie(source, np.concatenate(known), "Split")
        for part in known:
            if (reason := self._tie(source, part, "Split")) is not None:
                return reason
        return None

    def _clip(self, node: gs.Node, source: Array, result: Array) -> str | None:
        low, high = clip_bounds(node)
        if low is None or high is None or not low <= 0.0 < high:
            return "Clip has limits that are not constant, or not on both sides of zero"
        if (low, high) not in ((0.0, np.inf), (-np.inf, np.inf)):
            self._limits.append((node, source, low, high))
        return self._tie(source, result, "Clip")

    def _reshape(self, x: gs.Tensor, y: gs.Tensor, source: Array, result: Array, op: str) -> str | None:
        before, after = list(x.shape or ()), list(y.shape or ())
        if not before or before[0] != after[0] or not all(isinstance(d, int) for d in [*before[1:], *after[1:]]):
            return f"{op} may mix the channels"
        positions, left = int(np.prod(before[2:])), int(np.prod(after[2:]))
        if len(source) == len(result) and positions == left:
            return self._tie(source, result, op)
        if left == 1 and len(result) == len(source) * positions:
            return self._tie(np.repeat(source, positions), result, op)
        return f"{op} may mix the channels"

    def _picked(self, node: gs.Node, source: Array) -> Array | None:
        """Channels that a Gather, Pad or Slice writes, in their order; None where that is not known."""
        rank = len(node.inputs[0].shape or ())
        if edit.op(node) == "Gather":
            indices = edit.const(edit.inp(node, 1))
            axis = int(edit.attr(node, "axis", 0)) % max(rank, 1)
            return source[indices] if indices is not None and indices.ndim == 1 and axis == 1 else None
        if edit.op(node) == "Slice":
            return _sliced(node, source, rank)
        widths = edit.const(edit.inp(node, 1))
        value = edit.inp(node, 2)
        filled = edit.attr(node, "mode", "constant") == "constant"
        if (
            widths is None
            or edit.inp(node, 3) is not None
            or (filled and value is not None and edit.scalar(value) != 0)
        ):
            return None
        before, after = (int(widths[1]), int(widths[rank + 1])) if len(widths) == 2 * rank else (-1, -1)
        if before < 0 or after < 0 or (not filled and (before or after)) or widths[0] or widths[rank]:
            return None
        return np.concatenate([self._sets.fresh(before), source, self._sets.fresh(after)])

    def _rank(self, tensor: gs.Tensor) -> int:
        return len(self._shapes.of(tensor) or ())

    def _channels(self, tensor: gs.Tensor) -> Array | None:
        """The channels (axis 1) of an activation, made when first asked for; None where it has none."""
        if id(tensor) not in self._of:
            shape = None if isinstance(tensor, gs.Constant) else self._shapes.of(tensor)
            fits = shape is not None and len(shape) >= 2 and is_float(tensor.dtype)
            self._of[id(tensor)] = self._sets.fresh(shape[1]) if fits and shape is not None else None
            self._tensors[id(tensor)] = tensor
        return self._of[id(tensor)]

    def _hold(self, tensors: Iterable[gs.Tensor], reason: str) -> None:
        for tensor in tensors:
            if tensor.name and not isinstance(tensor, gs.Constant):
                self._sets.pin(self._channels(tensor), reason)

    def _tie(self, source: Array, result: Array, op: str) -> str | None:
        if len(source) != len(result):
            return f"{op} changes the number of channels"
        self._sets.join(source, result)
        return None


def _axes(node: gs.Node) -> list[int] | None:
    """The axes of a reduction, counted from the front; None where they are not constant."""
    rank = len(node.inputs[0].shape or ())
    given = edit.const(edit.inp(node, 1)) if edit.inp(node, 1) is not None else edit.attr(node, "axes")
    return None if given is None else [int(axis) % rank for axis in np.asarray(given).reshape(-1)]


def _sliced(node: gs.Node, source: Array, rank: int) -> Array | None:
    """What a Slice with constant ends leaves of the channels; None where it cuts the batch, or is not constant."""
    parts: Sequence[Any] = [edit.const(edit.inp(node, index)) for index in range(1, 5)]
    starts, ends, axes, steps = parts
    if starts is None or ends is None or axes is None or (steps is None and edit.inp(node, 4) is not None):
        return None
    strides = np.ones(len(starts), dtype=np.int64) if steps is None else steps
    for axis, start, end, stride in zip(axes, starts, ends, strides, strict=True):
        if int(axis) % rank == 0:
            return None
        if int(axis) % rank == 1:
            source = source[slice(int(start), int(end) if end >= -len(source) else None, int(stride))]
    return source
