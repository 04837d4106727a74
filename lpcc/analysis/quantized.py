"""The layers of a graph whose weights are stored as integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.formats.affine import Params, Weights

Array = np.ndarray[Any, Any]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A Conv, ConvTranspose, Gemm or MatMul that reads its weights through a DequantizeLinear from integer constants.

    Integers of fewer than 8 bits may go through a Cast to int8 first, as runtimes whose kernels take only int8 want it.
    """

    node: gs.Node
    weight: gs.Node
    """The DequantizeLinear of the weights."""
    bias: gs.Node | None
    """The DequantizeLinear of the bias; None where the layer has none, or one in float."""
    stored: gs.Constant
    """The integers as the file holds them."""

    @property
    def bits(self) -> int:
        """Bits of a stored weight: 2, 4, 8 or 16."""
        name = str(self.stored.dtype)
        return int(name[name.index("int") + 3 :])

    @property
    def channel_axis(self) -> int:
        """Axis of the weights that counts output channels; of the first group, for a ConvTranspose."""
        op = edit.op(self.node)
        if op == "Conv":
            return 0
        return 0 if op == "Gemm" and edit.attr(self.node, "transB", 0) else 1

    @property
    def weights(self) -> Weights:
        """Integers (as int8 or wider), scales and the axis of the scales, None for one scale."""
        integers = np.asarray(self.stored.values)
        if integers.dtype.kind not in "iu":
            integers = integers.astype(np.int8)
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
    scale, zero = edit.const(maker.inputs[1]), edit.const(edit.inp(maker, 2))
    if scale is None or scale.size != 1:
        return None
    dtype = maker.inputs[0].dtype if zero is None else zero.dtype
    return Params(np.float32(scale.reshape(())), 0 if zero is None else int(zero.reshape(())), np.dtype(dtype))


def quantized_layers(graph: gs.Graph) -> list[QuantizedLayer]:
    """The layers of the main graph with integer weights of one scale, or one per index of an axis, and zero point 0."""
    found = []
    for node in graph.nodes:
        if edit.op(node) not in _LAYERS:
            continue
        weight = _dequantize(edit.inp(node, 1))
        stored = None if weight is None else _stored(weight.inputs[0])
        if weight is None or stored is None or edit.attr(weight, "block_size", 0):
            continue
        zero = edit.const(edit.inp(weight, 2))
        if zero is not None and np.asarray(zero).astype(np.int32).any():
            continue
        bias = _dequantize(edit.inp(node, 2))
        found.append(
            QuantizedLayer(node, weight, bias if bias is not None and _stored(bias.inputs[0]) else None, stored)
        )
    return found


def _dequantize(tensor: gs.Tensor | None) -> gs.Node | None:
    maker = tensor.inputs[0] if tensor is not None and len(tensor.inputs) == 1 else None
    if maker is None or edit.op(maker) != "DequantizeLinear" or edit.const(maker.inputs[1]) is None:
        return None
    return maker


def _stored(tensor: gs.Tensor) -> gs.Constant | None:
    if isinstance(tensor, gs.Constant):
        return tensor
    maker = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    if maker is not None and edit.op(maker) == "Cast" and isinstance(maker.inputs[0], gs.Constant):
        source: gs.Constant = maker.inputs[0]
        return source if "int" in str(source.dtype) else None
    return None
