"""The layers of a graph whose weights are stored as integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.packed import Part, parts, values
from lpcc.formats.affine import Params, Weights
from lpcc.formats.narrow import limits

Array = np.ndarray[Any, Any]

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that have weights and do most of the work."""


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A Conv, ConvTranspose, Gemm or MatMul that reads its weights through a DequantizeLinear from integer constants.

    Integers of fewer than 8 bits may go through a Cast to int8 first, as runtimes whose kernels take only int8 want it;
    the output channels may lie in several constants of different widths.
    """

    node: gs.Node
    weight: gs.Node
    """The DequantizeLinear of the weights."""
    bias: gs.Node | None
    """The DequantizeLinear of the bias; None where the layer has none, or one in float."""
    parts: tuple[Part, ...]
    """The integers as the file holds them, each constant with its output channels."""

    @property
    def stored(self) -> gs.Constant:
        """The integers as the file holds them; those of the fewest bits, where there are several constants."""
        return min(self.parts, key=lambda part: part.bits).stored

    @property
    def bits(self) -> int:
        """Bits of a stored weight: 2, 4, 8 or 16; the fewest, where they differ by channel."""
        return min(part.bits for part in self.parts)

    @property
    def wide(self) -> Array:
        """The output channels whose weights have more bits than `bits`, in ascending order."""
        found = [part.places for part in self.parts if part.bits > self.bits]
        return np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    @property
    def channel_axis(self) -> int:
        """Axis of the weights that counts output channels; of the first group, for a ConvTranspose."""
        return _channel_axis(self.node)

    @property
    def limits(self) -> tuple[Array, Array]:
        """Least and greatest integer of each output channel, in a shape that broadcasts against the weights."""
        widths = np.full(sum(len(part.places) for part in self.parts), self.bits)
        for part in self.parts:
            widths[part.places] = part.bits
        ends = np.array([limits(int(bits)) for bits in widths])
        shape = [1] * len(self.stored.shape)
        shape[self.channel_axis] = -1
        return ends[:, 0].reshape(shape), ends[:, 1].reshape(shape)

    @property
    def weights(self) -> Weights:
        """Integers (as int8 or wider), scales and the axis of the scales, None for one scale."""
        integers = values(self.parts, self.channel_axis)
        scales = np.asarray(self.weight.inputs[1].values)
        axis = int(edit.attr(self.weight, "axis", 1)) if scales.ndim else None
        return Weights(integers, scales, axis)

    @property
    def input_params(self) -> Params | None:
        """How the activation that the layer reads is quantised; None where it is in float."""
        return params_of(self.node.inputs[0])


def params_of(tensor: gs.Tensor) -> Params | None:
    """Scale and zero point of a tensor that a DequantizeLinear makes with one scale; None for any other."""
    maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if maker is None or edit.op(maker) != "DequantizeLinear":
        return None
    return scale_and_zero(maker, maker.inputs[0].dtype)


def scale_and_zero(node: gs.Node, dtype: Any = None) -> Params | None:
    """What a QuantizeLinear or DequantizeLinear makes, or takes, of one scale; None for any other.

    `dtype` is that of the integers where no zero point says it; without one there are none then.
    """
    scale, zero = edit.const(node.inputs[1]), edit.const(edit.inp(node, 2))
    if scale is None or scale.size != 1 or (zero is None and dtype is None) or (zero is not None and zero.size != 1):
        return None
    kind = np.dtype(dtype if zero is None else zero.dtype)
    return Params(np.float32(scale.reshape(())), 0 if zero is None else int(zero.reshape(())), kind)


def quantized_layers(graph: gs.Graph) -> list[QuantizedLayer]:
    """The layers of the main graph with integer weights of one scale, or one per index of an axis, and zero point 0."""
    found = []
    for node in graph.nodes:
        if edit.op(node) not in LAYERS:
            continue
        weight = _dequantize(edit.inp(node, 1))
        stored = () if weight is None else parts(weight.inputs[0], _channel_axis(node))
        if weight is None or not stored or edit.attr(weight, "block_size", 0):
            continue
        zero = edit.const(edit.inp(weight, 2))
        if zero is not None and np.asarray(zero).astype(np.int32).any():
            continue
        bias = _dequantize(edit.inp(node, 2))
        is_stored = bias is not None and isinstance(bias.inputs[0], gs.Constant)
        found.append(QuantizedLayer(node, weight, bias if is_stored else None, stored))
    return found


def _dequantize(tensor: gs.Tensor | None) -> gs.Node | None:
    maker = tensor.inputs[0] if tensor is not None and len(tensor.inputs) == 1 else None
    if maker is None or edit.op(maker) != "DequantizeLinear" or edit.const(maker.inputs[1]) is None:
        return None
    return maker


def _channel_axis(node: gs.Node) -> int:
    op = edit.op(node)
    if op == "Conv":
        return 0
    return 0 if op == "Gemm" and edit.attr(node, "transB", 0) else 1
