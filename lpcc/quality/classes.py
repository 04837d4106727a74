"""Which outputs of a model are class scores, by how they are made: shapes alone cannot tell them from coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpcc.runtime.spec import Array

if TYPE_CHECKING:
    import onnx

_MOVES = frozenset(
    {"Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"}
)
"""What class scores go through unchanged, and stay scores of images as long as they are (N, C, 1, ...)."""
_SHIFTS = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})
"""Those with constants: a bias, a temperature."""
_LINEAR = frozenset({"AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "ReduceMean"})
_LEAST_MARGIN = 1e-3
_BOX = 4
_COLOURS = 3


@dataclass(frozen=True)
class Classes:
    """What an output says of classes: scores along `axis`, or with an axis of None the chosen class itself."""

    axis: int | None

    def choice(self, output: Array) -> Array | None:
        """The class chosen for each sample or pixel, -1 where a score is NaN; None where there is nothing to choose."""
        if self.axis is None:
            return output.reshape(-1)
        if not -output.ndim <= self.axis < output.ndim or output.shape[self.axis] < 2:
            return None
        scores = np.moveaxis(output, self.axis, -1)
        scores = scores.reshape(-1, scores.shape[-1])
        broken = np.isnan(scores).any(axis=1) if scores.dtype.kind == "f" else False
        chosen: Array = np.where(broken, -1, scores.argmax(axis=1))
        return chosen

    def margins(self, output: Array) -> Array:
        """How sure each choice is: by how much its probability exceeds the next one's, 0.001 at least.

        Scores that are no probabilities are taken for their logarithms. 1 where it cannot be told, or with a NaN.
        """
        if self.axis is None:
            return np.ones(output.size)
        rows = np.moveaxis(output, self.axis, -1).astype(np.float64)
        rows = rows.reshape(-1, rows.shape[-1])
        with np.errstate(all="ignore"):  # what is not finite gives NaN, and that 1
            if not (rows.min(initial=0.0) >= 0 and np.allclose(rows.sum(axis=1), 1, atol=1e-3)):
                rows = np.exp(rows - rows.max(axis=1, keepdims=True))
                rows /= rows.sum(axis=1, keepdims=True)
            next_best, best = np.partition(rows, -2, axis=1)[:, -2:].T
            margins: Array = np.maximum(np.nan_to_num(best - next_best, nan=1.0), _LEAST_MARGIN)
        return margins


def class_outputs(model: onnx.ModelProto) -> dict[str, Classes]:
    """The outputs of a model that are about classes, by name.

    Class scores (N, C) are what Softmax or LogSoftmax makes; what Sigmoid or the last layer of a classifier makes, if
    no other output is sure to be scores and C is not 4: boxes come beside scores, or alone. Class maps (N, C, H, W) are
    what Softmax makes along C, or upsampled scores of more or fewer than three channels, which would be colours. Chosen
    classes are what ArgMax makes. Scores of anchors (N, A, C), grids of detections, coordinates and images are not.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    sure: dict[str, Classes] = {}
    likely: dict[str, Classes] = {}
    for output in graph.output:
        shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        found = _trace(output.name, len(shape), makers, constants)
        if found is None:
            continue
        classes, kind = found
        count = shape[classes.axis] if classes.axis is not None and classes.axis < len(shape) else 0
        if kind in ("softmax", "argmax"):
            sure[output.name] = classes
        elif (kind == "map" and count != _COLOURS) or (kind == "linear" and count != _BOX):
            likely[output.name] = classes
    return sure or likely


def _trace(
    name: str, rank: int, makers: Mapping[str, onnx.NodeProto], constants: set[str]
) -> tuple[Classes, str] | None:
    """What makes a tensor, seen through what only moves or shifts scores."""
    order = list(range(rank))  # by axis of what is looked at: the axis of the output
    upsampled = False
    for node in _back(name, makers, constants):
        op = node.op_type
        if op == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(reversed(range(rank))))
            if len(perm) != len(order):
                return None
            placed = list(order)
            for place, axis in enumerate(perm):
                placed[axis] = order[place]
            order = placed
        elif op in ("Softmax", "LogSoftmax"):
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            classes = Classes(order[axis] if -rank <= axis < rank else 1)
            return (classes, "softmax") if rank == 2 or (rank == 4 and classes.axis in (1, 3)) else None
        elif op == "ArgMax":
            return Classes(None), "argmax"
        elif op in ("Resize", "Upsample"):
            upsampled = True
        elif op in _LINEAR or op == "Sigmoid":
            if rank == 2 or (rank == 4 and not upsampled and op in ("GlobalAveragePool", "AveragePool")):
                return Classes(1), "linear"
            return (Classes(order[1]), "map") if rank == 4 and upsampled and op == "Conv" else None
        else:
            return None
    return None


def _back(name: str, makers: Mapping[str, onnx.NodeProto], constants: set[str]) -> Iterator[onnx.NodeProto]:
    """From a tensor backwards the nodes that decide what it is; those that only move or shift it are passed over."""
    while name in makers:
        node = makers[name]
        op = node.op_type
        if op in _SHIFTS and op != "BatchNormalization":
            varying = [other for other in node.input if not _is_constant(other, makers, constants)]
            if len(varying) != 1:
                return
            name = varying[0]
            continue
        if op not in _MOVES and op != "BatchNormalization" and op != "Relu":
            yield node
            if op not in ("Transpose", "Resize", "Upsample"):
                return
        name = node.input[0]


def _is_constant(name: str, makers: Mapping[str, onnx.NodeProto], constants: set[str]) -> bool:
    node = makers.get(name)
    dequantized = node is not None and node.op_type == "DequantizeLinear" and node.input[0] in constants
    return name in constants or dequantized
