"""Multiply-accumulates and parameters, node by node.

One multiply-accumulate counts as one. Biases, activations, pooling and element-wise operators count as none.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.rules import DEQUANTIZE, QUANTIZE
from lpcc.analysis.shapes import Shapes, bind, bits, constant_of

CONVS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "com.microsoft::FusedConv": 1,
    "com.microsoft::NhwcFusedConv": 1,
    "com.microsoft::QLinearConv": 3,
}
"""Convolutions, each with the index of the input that holds its weights."""

PRODUCTS = {
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
    "com.microsoft::FusedGemm": 1,
    "com.microsoft::FusedMatMul": 1,
    "com.microsoft::QGemm": 3,
    "com.microsoft::MatMulIntegerToFloat": 1,
    "com.microsoft::DynamicQuantizeMatMul": 1,
}
"""Matrix products, each with the index of its second factor."""

RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Recurrent layers, each with its gates."""

_NOT_WEIGHTS = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "com.microsoft::QuantizeLinear": (1, 2),
    "com.microsoft::DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "com.microsoft::QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "com.microsoft::QGemm": (1, 2, 4, 5, 7, 8),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Clip": (1, 2),
    "Pad": (1, 2, 3),
}


def macs(graph: gs.Graph, shapes: Shapes | None = None) -> dict[int, int]:
    """Multiply-accumulates of each node that has any, keyed by ``id(node)``, nested graphs included (counted once)."""
    shapes = shapes or bind(graph)
    counted = ((id(node), node_macs(node, shapes)) for node in edit.nodes(graph))
    return {key: count for key, count in counted if count}


def node_macs(node: gs.Node, shapes: Shapes) -> int:
    """Multiply-accumulates of one node; 0 where it has none, or where a shape that it takes is unknown."""
    op = edit.op(node)
    if op in CONVS:
        return _conv(node, op, shapes)
    if op in PRODUCTS:
        return _product(node, shapes)
    if op in RECURRENT:
        steps, weights, memory = (shapes.of(edit.inp(node, index)) for index in range(3))
        return 0 if not (steps and weights and memory) else prod(steps[:2]) * (prod(weights) + prod(memory))
    return 0


def _conv(node: gs.Node, op: str, shapes: Shapes) -> int:
    weight = shapes.of(edit.inp(node, CONVS[op]))
    if weight is None:
        return 0
    if op == "ConvTranspose":  # each input element meets W[in channel], of shape [out channels / group, kernel...]
        return shapes.elements(edit.inp(node, 0)) * prod(weight[1:])
    return shapes.elements(edit.out(node)) * prod(weight[1:])


def _product(node: gs.Node, shapes: Shapes) -> int:
    first = shapes.of(edit.inp(node, 0))
    if not first:
        return 0
    transposed = bool(edit.attr(node, "transA", 0)) and len(first) > 1
    return shapes.elements(edit.out(node)) * (first[-2] if transposed else first[-1])


def weights(node: gs.Node) -> list[gs.Constant]:
    """The constants among a node's inputs that are trained parameters: no scales, bounds, sizes or indices.

    Float constants of more than one element count, and integers that a quantised operator reads as weights.
    """
    op = edit.op(node)
    skipped = _NOT_WEIGHTS.get(op, ())
    integer = any(word in op.lower() for word in ("quant", "qlinear", "integer", "qgemm"))
    found: list[gs.Constant] = []
    for index, tensor in enumerate(node.inputs):
        constant = constant_of(tensor)
        if constant is None or index in skipped or prod(constant.shape) <= 1:
            continue
        if integer or np.dtype(constant.dtype).kind in "fV":  # V: bfloat16 and the 8-bit floats
            found.append(constant)
    return found


def parameters(graph: gs.Graph) -> int:
    """Trained parameters of a graph and the graphs nested in it; shared ones count once."""
    distinct = {id(tensor): tensor for node in edit.nodes(graph) for tensor in weights(node)}
    return sum(prod(tensor.shape) for tensor in distinct.values())


def weight_bytes(graph: gs.Graph) -> int:
    """Bytes of all constants that a graph and the graphs nested in it read; shared ones count once."""
    return _bytes(tensor for node in edit.nodes(graph) for tensor in node.inputs)


def stored_bytes(graph: gs.Graph) -> int:
    """Those bytes without scales and zero points of Q/DQ, which runtimes store in forms of their own."""
    return _bytes(
        tensor
        for node in edit.nodes(graph)
        for tensor in (node.inputs[:1] if edit.op(node) in QUANTIZE | DEQUANTIZE else node.inputs)
    )


def _bytes(tensors: Iterable[gs.Tensor]) -> int:
    distinct: dict[int, gs.Constant] = {}
    for tensor in tensors:
        constant = constant_of(tensor)
        if constant is not None:
            distinct[id(constant)] = constant
    return sum(-(-prod(constant.shape) * bits(constant) // 8) for constant in distinct.values())
