"""Multiply-accumulates and parameters, node by node.

One multiply-accumulate counts as one. Biases, activations, pooling and element-wise operators count as none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.decoding import makers
from lpcc.analysis.packed import stored_constants
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

RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1, "com.microsoft::DynamicQuantizeLSTM": 4}
"""Recurrent layers, each with its gates."""

ATTENTION = ("Attention", "com.microsoft::Attention", "com.microsoft::MultiHeadAttention")
"""Attention as one operator."""

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
        return _recurrent(node, shapes)
    if op == "Einsum":
        return _einsum(node, shapes)
    if op in ATTENTION:
        return _attention(node, op, shapes)
    if op == "com.microsoft::MatMulNBits":
        return shapes.elements(edit.out(node)) * int(edit.attr(node, "K", 0))
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


def _recurrent(node: gs.Node, shapes: Shapes) -> int:
    """Each step multiplies the input by W (directions, gates x state, inputs) and the state by R."""
    data = shapes.of(edit.inp(node, 0))
    if data is None or len(data) != 3:
        return 0
    return data[0] * data[1] * sum(shapes.elements(edit.inp(node, index)) for index in (1, 2))


def _einsum(node: gs.Node, shapes: Shapes) -> int:
    """A product of two operands without an ellipsis: the sizes of all letters multiplied."""
    terms = str(edit.attr(node, "equation", "")).replace(" ", "").partition("->")[0].split(",")
    found = [shapes.of(t) for t in node.inputs]
    if len(terms) != 2 or len(found) != 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, found, strict=True):
        if shape is None or len(shape) != len(term):
            return 0
        sizes.update(zip(term, shape, strict=True))
    return prod(sizes.values())


def _attention(node: gs.Node, op: str, shapes: Shapes) -> int:
    """Scores of all queries with all keys, and the sum of the values by them; the first kind also projects."""
    query, out = shapes.of(edit.inp(node, 0)), shapes.of(edit.out(node))
    if query is None or out is None or len(query) < 3:
        return 0
    if op == "com.microsoft::Attention":
        weight = shapes.of(edit.inp(node, 1)) or (0, 0)
        tokens = query[0] * query[1]
        return tokens * prod(weight) + tokens * query[1] * (weight[-1] // 3 + out[-1])
    keys = shapes.of(edit.inp(node, 1))
    if keys is None or len(keys) != len(query):
        return 0
    return (prod(query) + prod(out)) * keys[-2]


def weights(node: gs.Node) -> list[gs.Constant]:
    """The constants among a node's inputs that are trained parameters: no scales, bounds, sizes or indices.

    Float constants of more than one element count, and integers that a quantised operator reads as weights.
    """
    op = edit.op(node)
    skipped = _NOT_WEIGHTS.get(op, ())
    integer = any(word in op.lower() for word in ("quant", "qlinear", "integer", "qgemm"))
    found: list[gs.Constant] = []
    if op in rules.DEQUANTIZE and not isinstance(node.inputs[0], gs.Constant):
        found += stored_constants(node.inputs[0])
    for index, tensor in enumerate(node.inputs):
        constant = constant_of(tensor)
        if constant is None or index in skipped or prod(constant.shape) <= 1:
            continue
        if integer or np.dtype(constant.dtype).kind in "fV":  # V: bfloat16 and the 8-bit floats
            found.append(constant)
    return found


def trained(node: gs.Node) -> list[gs.Tensor]:
    """As `weights`, but tensors computed from constants as the node reads them; nothing of nodes that compute them."""
    if len(node.outputs) == 1 and makers(node.outputs[0]) is not None:
        return []
    skipped = _NOT_WEIGHTS.get(edit.op(node), ())
    computed = [t for i, t in enumerate(node.inputs) if i not in skipped and t.name and _is_decoded(t)]
    return [*weights(node), *computed]


def _is_decoded(tensor: gs.Tensor) -> bool:
    """Whether a tensor is computed from constants: floats, more than one, as many as can be told."""
    if constant_of(tensor) is not None or rules.dtype_of(tensor).kind not in "fV":
        return False
    sized = tensor.shape is not None and all(isinstance(dim, int) for dim in tensor.shape)
    return sized and prod(tensor.shape) > 1 and makers(tensor) is not None


def parameters(graph: gs.Graph) -> int:
    """Trained parameters of a graph and the graphs nested in it; shared ones count once."""
    distinct = {id(tensor): tensor for node in edit.nodes(graph) for tensor in trained(node)}
    return sum(prod(tensor.shape) for tensor in distinct.values())


def weight_bytes(graph: gs.Graph) -> int:
    """Bytes of all constants that a graph and the graphs nested in it read as they run; shared ones count once.

    What is computed from constants alone counts by its result, as that is what stays in memory.
    """
    return bytes_of(resident(graph))


def resident(graph: gs.Graph) -> list[gs.Tensor]:
    """The tensors that `weight_bytes` counts."""
    return _distinct(graph, lambda node: node.inputs)


def bytes_of(tensors: Iterable[gs.Tensor]) -> int:
    """Bytes of tensors whose sizes are known."""
    return sum(-(-prod(tensor.shape) * bits(tensor) // 8) for tensor in tensors)


def stored_bytes(graph: gs.Graph) -> int:
    """Those bytes as they are stored: integers of few bits packed, scales and zero points of Q/DQ left out.

    Runtimes store these in forms of their own.
    """
    return bytes_of(_distinct(graph, _stored))


def constant_bytes(graph: gs.Graph) -> int:
    """Bytes of all constants that the nodes of a graph and of the graphs nested in it read, packed as in the file."""
    distinct = {id(t): t for node in edit.nodes(graph) for t in map(constant_of, node.inputs) if t is not None}
    return bytes_of(distinct.values())


def _stored(node: gs.Node) -> Iterable[gs.Tensor]:
    """What a node reads, without scales and zero points, and integers of few bits in place of what they become."""
    op = edit.op(node)
    if op not in rules.QUANTIZE | rules.DEQUANTIZE:
        return list(node.inputs)
    packed = stored_constants(node.inputs[0]) if op in rules.DEQUANTIZE else ()
    return packed or node.inputs[:1]


def _distinct(graph: gs.Graph, read: Callable[[gs.Node], Iterable[gs.Tensor]]) -> list[gs.Tensor]:
    """The constants that nodes read as they run, and what is computed from constants alone, each once."""
    folded = rules.folded(graph)
    distinct: dict[int, gs.Tensor] = {}
    for node in edit.nodes(graph):
        if rules.folds(node, edit.op(node), folded):
            continue
        for tensor in read(node):
            constant = constant_of(tensor)
            if constant is not None:
                distinct[id(constant)] = constant
            elif id(tensor) in folded and all(isinstance(dim, int) for dim in tensor.shape or [None]):
                distinct[id(tensor)] = tensor
    return list(distinct.values())
