"""Channels that hold one number whatever the input is, and how that number travels through a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.channels import keeps_channel_means
from lpcc.analysis.concrete import compute
from lpcc.analysis.groups import ChannelGroups
from lpcc.analysis.purity import trains
from lpcc.match import NoMatch, is_float
from lpcc.passes.normalize.linear import Linear

Array = np.ndarray[Any, Any]

_ALONE: Final = """Abs Celu Clip Elu Erf Exp Floor Ceil Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Reciprocal
    Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Tanh ThresholdedRelu"""
_TOGETHER: Final = "Add Sub Mul Div Max Min Pow PRelu Sum Mean"
_KEEPS: Final = "Identity Dropout GlobalAveragePool GlobalMaxPool MaxPool Resize Upsample"
_OTHER_AXES: Final = "ReduceMean ReduceMax ReduceMin"


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the channels of a tensor."""

    axis: int
    """The axis along which they stand, from the front."""
    values: Array
    """The number that a channel holds everywhere, (channels,); NaN where it is not always one number."""


def constant_channels(graph: gs.Graph, found: ChannelGroups) -> dict[str, Known]:
    """By name of a tensor of the main graph: the channels that are constant; tensors with none are left out.

    A channel is constant where a filter is all zero (it is the bias then), where the scale of a batch norm is zero,
    where Pad adds it, and where all that it is computed from is constant. A convolution that pads makes something else
    of a constant at its edges, unless that constant is zero.
    """
    trace = _Constants(graph, found)
    for node in graph.nodes:
        rule = _RULES.get(edit.op(node))
        if rule is None or not node.outputs or not is_float(node.outputs[0].dtype):
            continue
        try:
            rule(trace, node)
        except NoMatch:
            continue
    return trace.known


class _Constants:
    def __init__(self, graph: gs.Graph, found: ChannelGroups) -> None:
        self.opset = int(graph.opset)
        self.found = found
        self.known: dict[str, Known] = {}

    def channels(self, tensor: gs.Tensor, axis: int) -> int | None:
        """Number of channels along an axis; None where they are not followed."""
        axes = self.found.labels.get(tensor.name, ())
        line = axes[axis] if -len(axes) <= axis < len(axes) else None
        return None if line is None else len(line)

    def of(self, tensor: gs.Tensor, axis: int) -> Array:
        """What is known of the channels along an axis. Raises NoMatch where there are none."""
        known = self.known.get(tensor.name)
        if known is not None and known.axis == axis:
            return known.values
        count = self.channels(tensor, axis)
        if count is None:
            raise NoMatch("it has no channels")
        return np.full(count, np.nan)

    def read(self, node: gs.Node) -> Known:
        """What is known of a node's first input. Raises NoMatch where that is nothing."""
        known = self.known.get(node.inputs[0].name)
        if known is None:
            raise NoMatch("nothing is known of it")
        return known

    def note(self, tensor: gs.Tensor, axis: int, values: Array) -> None:
        """Note the channels of a tensor that are constant, if any are and they are followed: a single one is not."""
        finite = np.isfinite(values)
        if finite.any() and self.channels(tensor, axis) == len(values):
            self.known[tensor.name] = Known(axis, np.where(finite, values, np.nan))

    def layer(self, node: gs.Node) -> None:
        """A sum over inputs each of which is constant, or has no weight."""
        if edit.attr(node, "transA", 0):
            raise NoMatch("")
        layer = Linear.of(node)
        if 0 in layer.weight.shape:
            raise NoMatch("it has no weights")
        weights = layer.unpack()  # groups, outputs, inputs, kernel
        rank = layer.rank
        if rank is None:
            raise NoMatch("")
        axis = layer.axis % rank
        try:
            values = self.of(node.inputs[0], axis)
        except NoMatch:
            values = np.full(layer.inputs, np.nan)
        if len(values) != layer.inputs:
            raise NoMatch("")
        if layer.pads or layer.kind == "ConvTranspose":
            values = np.where(values == 0, 0.0, np.nan)
        values = values.reshape(layer.groups, 1, -1)
        sums = weights.sum(axis=3)
        matters = (weights != 0).any(axis=3)
        alpha = float(edit.attr(node, "alpha", 1.0)) if layer.kind == "Gemm" else 1.0
        result = alpha * np.where(matters, sums * values, 0.0).sum(axis=2).reshape(-1)
        self.note(node.outputs[0], axis, result if layer.bias is None else result + layer.bias)

    def batch_norm(self, node: gs.Node) -> None:
        """Its bias, where its scale is zero."""
        numbers = [edit.const(tensor) for tensor in node.inputs[1:5]]
        if trains(node, self.opset) or any(values is None or values.ndim != 1 for values in numbers):
            raise NoMatch("")
        scale, bias, mean, variance = (np.asarray(values, dtype=np.float64) for values in numbers)
        try:
            x = self.of(node.inputs[0], 1)
        except NoMatch:
            x = np.full(len(scale), np.nan)
        factor = scale / np.sqrt(variance + float(edit.attr(node, "epsilon", 1e-5)))
        self.note(node.outputs[0], 1, np.where(scale == 0, bias, factor * (x - mean) + bias))

    def elementwise(self, node: gs.Node) -> None:
        """The operator itself, on what is known; a product with zero is zero."""
        op = edit.op(node)
        rank = len(self.found.labels.get(node.outputs[0].name, ()))
        sources = [tensor for tensor in node.inputs if tensor.name]
        known = [self.known.get(tensor.name) for tensor in sources]
        axes = {item.axis + rank - self.rank(t) for item, t in zip(known, sources, strict=True) if item is not None}
        count = self.channels(node.outputs[0], next(iter(axes))) if len(axes) == 1 else None
        if count is None:
            raise NoMatch("")
        (axis,) = axes
        shape = [count if at == axis else 1 for at in range(rank)]
        operands = [self.operand(t, item, axis, rank) for t, item in zip(sources, known, strict=True)]
        unknown = np.zeros(shape, dtype=bool)
        zero = np.zeros(shape, dtype=bool)
        for operand in operands:
            unknown |= np.isnan(operand)
            zero |= operand == 0
        filled = [np.where(np.isnan(operand), 1.0, operand) for operand in operands]
        attributes = dict(node.attrs)
        given = iter(filled)
        arguments = [None if not t.name else next(given).astype(node.outputs[0].dtype) for t in node.inputs]
        if op == "Clip":
            arguments[1:] = [None if a is None else a.reshape(()) for a in arguments[1:]]
        with np.errstate(all="ignore"):
            result = compute(op, self.opset, arguments, attributes)
        if result is None or result.size != count:
            raise NoMatch("")
        values = np.where(unknown, np.nan, result.astype(np.float64).reshape(shape))
        values = np.where(zero, 0.0, values) if op == "Mul" else values
        self.note(node.outputs[0], axis, values.reshape(-1))

    def rank(self, tensor: gs.Tensor) -> int:
        """Rank of a constant, or of a tensor whose channels are followed."""
        return len(tensor.shape) if isinstance(tensor, gs.Constant) else len(self.found.labels.get(tensor.name, ()))

    def operand(self, tensor: gs.Tensor, known: Known | None, axis: int, rank: int) -> Array:
        """An operand as numbers along an axis; NaN for a channel that is not constant."""
        if known is not None:
            shape = [1] * rank
            shape[axis] = -1
            return known.values.reshape(shape)
        values = edit.const(tensor)
        if values is None:
            return np.full([1] * rank, np.nan)
        if values.ndim > rank or any(
            size != 1 for at, size in enumerate(values.shape) if at + rank - values.ndim != axis
        ):
            raise NoMatch("a constant differs within channels")
        return np.asarray(values, dtype=np.float64).reshape([1] * (rank - values.ndim) + list(values.shape))

    def same(self, node: gs.Node) -> None:
        """What averages, picks or repeats within channels; a Dropout that trains leaves zeros only as they are."""
        known = self.read(node)
        if edit.attr(node, "coordinate_transformation_mode") in ("tf_crop_and_resize", b"tf_crop_and_resize"):
            raise NoMatch("")
        plain = not trains(node, self.opset)
        self.note(node.outputs[0], known.axis, known.values if plain else np.where(known.values == 0, 0.0, np.nan))

    def average(self, node: gs.Node) -> None:
        """An average within channels; where it counts zeros at the edges, of zeros only."""
        known = self.read(node)
        plain = edit.attr(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(edit.attr(node, "pads", []))
        plain = plain and not edit.attr(node, "ceil_mode", 0)
        plain = plain or not edit.attr(node, "count_include_pad", 0)
        self.note(node.outputs[0], known.axis, known.values if plain else np.where(known.values == 0, 0.0, np.nan))

    def reduce(self, node: gs.Node) -> None:
        """A mean or an extreme over other axes, all of which are named."""
        known = self.read(node)
        rank = self.rank(node.inputs[0])
        given = edit.attr(node, "axes", None) if edit.inp(node, 1) is None else edit.const(edit.inp(node, 1))
        over = sorted(int(axis) % rank for axis in ([] if given is None else given))
        if not over or known.axis in over:
            raise NoMatch("")
        before = 0 if edit.attr(node, "keepdims", 1) else sum(axis < known.axis for axis in over)
        self.note(node.outputs[0], known.axis - before, known.values)

    def transpose(self, node: gs.Node) -> None:
        """The same channels along another axis."""
        known = self.read(node)
        rank = self.rank(node.inputs[0])
        order = list(edit.attr(node, "perm", list(reversed(range(rank)))))
        self.note(node.outputs[0], order.index(known.axis), known.values)

    def reshape(self, node: gs.Node) -> None:
        """Channels that stay, or that Flatten joins with all behind them."""
        known = self.read(node)
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if known.axis != 1 or before is None or after is None or len(after) < 2:
            raise NoMatch("")
        if keeps_channel_means(node):
            self.note(node.outputs[0], 1, known.values)
        elif before[0] == after[0] and all(isinstance(size, int) for size in (*before[2:], *after[1:])):
            each = prod(before[2:])
            if after[1] == len(known.values) * each and prod(after[2:]) == 1:
                self.note(node.outputs[0], 1, np.repeat(known.values, each))

    def concat(self, node: gs.Node) -> None:
        """Channels one after the other."""
        axis = int(edit.attr(node, "axis", 1)) % max(1, self.rank(node.outputs[0]))
        if any(self.known[t.name].axis != axis for t in node.inputs if t.name in self.known):
            raise NoMatch("")
        self.note(node.outputs[0], axis, np.concatenate([self.of(tensor, axis) for tensor in node.inputs]))

    def split(self, node: gs.Node) -> None:
        """Channels in parts."""
        known = self.read(node)
        if int(edit.attr(node, "axis", 0)) % self.rank(node.inputs[0]) != known.axis:
            raise NoMatch("")
        start = 0
        for tensor in node.outputs:
            count = self.channels(tensor, known.axis)
            if count is None:
                raise NoMatch("")
            self.note(tensor, known.axis, known.values[start : start + count])
            start += count

    def pick(self, node: gs.Node) -> None:
        """Channels that a Slice or a Gather picks."""
        known = self.read(node)
        y = node.outputs[0]
        if self.rank(y) == self.rank(node.inputs[0]):
            places = self.found.picked.get(y.name, {}).get(known.axis)
            self.note(y, known.axis, known.values if places is None else known.values[places])

    def pad(self, node: gs.Node) -> None:
        """What Pad adds along channels is constant; what it adds along other axes is as constant as its number."""
        x, y = node.inputs[0], node.outputs[0]
        pads = edit.attr(node, "pads", None) if edit.inp(node, 1) is None else edit.const(edit.inp(node, 1))
        given = edit.inp(node, 2)
        number = float(edit.attr(node, "value", 0.0)) if given is None else edit.scalar(given)
        rank = self.rank(x)
        mode = edit.attr(node, "mode", "constant")
        if mode not in ("constant", b"constant") or number is None or edit.inp(node, 3) is not None:
            raise NoMatch("")
        if pads is None or len(pads) != 2 * rank:
            raise NoMatch("")
        amounts = np.asarray(pads, dtype=np.int64).reshape(2, rank)
        axis = self.known[x.name].axis if x.name in self.known else 1
        values = self.of(x, axis)
        if np.delete(amounts, axis, axis=1).any():
            values = np.where(values == number, values, np.nan)
        before, after = amounts[:, axis].tolist()
        if before < 0 or after < 0:
            raise NoMatch("")
        self.note(y, axis, np.concatenate([np.full(before, number), values, np.full(after, number)]))


_RULES: Final[dict[str, Callable[[_Constants, gs.Node], None]]] = {
    **dict.fromkeys((*_ALONE.split(), *_TOGETHER.split()), _Constants.elementwise),
    **dict.fromkeys(_KEEPS.split(), _Constants.same),
    **dict.fromkeys(_OTHER_AXES.split(), _Constants.reduce),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _Constants.layer),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _Constants.reshape),
    **dict.fromkeys(("Slice", "Gather"), _Constants.pick),
    "AveragePool": _Constants.average,
    "BatchNormalization": _Constants.batch_norm,
    "Concat": _Constants.concat,
    "Pad": _Constants.pad,
    "Split": _Constants.split,
    "Transpose": _Constants.transpose,
}
