"""The layers whose weights may be quantised, and why others may not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.decoding import makers
from lpcc.formats.format import Array
from lpcc.pipeline import Changes

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with float weights, and the axis of these that counts its output channels (of a group, if transposed)."""

    node: gs.Node
    weight: gs.Constant
    axis: int

    @property
    def values(self) -> Array:
        """The weights."""
        return np.asarray(self.weight.values)

    @property
    def is_product(self) -> bool:
        """Whether the layer is a plain matrix product with weights (inputs, outputs), or those transposed."""
        op = edit.op(self.node)
        if len(self.weight.shape) != 2:
            return False
        plain = edit.attr(self.node, "alpha", 1.0) == edit.attr(self.node, "beta", 1.0) == 1.0
        return op == "MatMul" or (op == "Gemm" and plain and not edit.attr(self.node, "transA", 0))


def layers(graph: gs.Graph, skip: frozenset[str], changes: Changes) -> Iterator[Layer]:
    """The layers of one graph that can be quantised, in order; `changes` is told why others cannot."""
    for node in graph.nodes:
        if edit.op(node) not in LAYERS:
            continue
        found = _layer(node, skip)
        if isinstance(found, Layer):
            yield found
        else:
            changes.refuse(node, found)


def _layer(node: gs.Node, skip: frozenset[str]) -> Layer | str:
    if edit.label(node) in skip:
        return "named in `skip`"
    weight = edit.inp(node, 1)
    if not isinstance(weight, gs.Constant):
        quantised = weight is not None and makers(weight) is not None
        return "its weights are quantised already" if quantised else "its weights are not constant"
    reads = edit.inp(node, 0)
    if reads is not None and len(reads.inputs) == 1 and edit.op(reads.inputs[0]) == "DequantizeLinear":
        return "it is part of a network that is quantised already"
    if weight.dtype != np.float32:
        return f"its weights are {np.dtype(weight.dtype).name}, not float32"
    if len(weight.shape) < 2 or 0 in weight.shape:
        return "its weights are no matrix"
    if not np.isfinite(np.asarray(weight.values)).all():
        return "its weights are not finite"
    return Layer(node, weight, _axis(node, len(weight.shape)))


def _axis(node: gs.Node, rank: int) -> int:
    op = edit.op(node)
    if op == "Conv":
        return 0
    if op == "ConvTranspose":
        return 1
    return 0 if op == "Gemm" and edit.attr(node, "transB", 0) else rank - 1
