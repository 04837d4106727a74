"""What is known of shapes before the model runs: sizes of tensors, and the values of integer tensors made from them.

A size is a number, an expression over sizes that are not known (`lpcc.analysis.sizes.Size`), or None. An unknown size
belongs to one axis of one tensor, from where the rules of the operators carry it on. Names of symbolic dimensions are
not used: exporters give one name to sizes that differ. Nor are the shapes that the model states of tensors between
its inputs and outputs: they go stale when somebody makes the batch of a model dynamic. Sizes follow from the inputs,
whose stated sizes onnxruntime enforces, and from the constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import shape_rules, sizes, value_rules
from lpcc.analysis.sizes import Size
from lpcc.analysis.types import bodies, infer_types
from lpcc.door import importer

_LARGEST = 1024  # elements; larger integer tensors say nothing about shapes

Dims = tuple[int | Size, ...]
Inferred = dict[int, tuple[gs.Tensor, Sequence[int | None]]]


class ShapeValues:
    """Sizes and integer values of one model's tensors, as far as they follow from its inputs and constants."""

    def __init__(self, inferred: Inferred) -> None:
        self._inferred = inferred  # holds the tensors, as an id is given out anew once its object is gone
        self._dims: dict[int, Dims | None] = {}
        self._values: dict[int, np.ndarray] = {}
        self._quotients: dict[tuple[int | Size, int], Size] = {}
        self._unknowns = 0
        self._held: list[gs.Tensor] = []

    def dims(self, tensor: gs.Tensor | None) -> Dims | None:
        """Size of each dimension; None where the rank is unknown."""
        if tensor is None:
            return None
        if isinstance(tensor, gs.Constant):
            return tuple(int(dim) for dim in tensor.shape)
        if id(tensor) not in self._dims:
            self.note_dims(tensor, None)
        return self._dims[id(tensor)]

    def static(self, tensor: gs.Tensor | None) -> tuple[int, ...] | None:
        """Shape of a tensor, where it is the same at every run; else None."""
        dims = self.dims(tensor)
        if dims is None:
            return None
        known = tuple(dim for dim in dims if isinstance(dim, int))
        return known if len(known) == len(dims) else None

    def rank(self, tensor: gs.Tensor | None) -> int | None:
        """Number of dimensions; None where it is unknown."""
        dims = self.dims(tensor)
        return None if dims is None else len(dims)

    def value(self, tensor: gs.Tensor | None) -> np.ndarray | None:
        """Elements of an integer or Boolean tensor, each an int, a Size or None; None where nothing is known."""
        if tensor is None:
            return None
        found = self._values.get(id(tensor))
        if found is None and isinstance(tensor, gs.Constant) and _countable(tensor):
            found = np.asarray(tensor.values).astype(object)
            self._values[id(tensor)] = found
            self._held.append(tensor)
        return found

    def numbers(self, tensor: gs.Tensor | None) -> np.ndarray | None:
        """Elements of an integer tensor as int64, where all are the same at every run; else None."""
        value = self.value(tensor)
        if value is None or not all(isinstance(element, int) for element in value.reshape(-1)):
            return None
        return value.astype(np.int64)

    def unknown(self) -> Size:
        """A size of which nothing is known."""
        self._unknowns += 1
        return sizes.unknown(self._unknowns)

    def quotient(self, a: int | Size, divisor: int) -> int | Size:
        """``floor(a / divisor)`` for a size and a positive number; equal quotients are equal sizes."""
        if isinstance(a, int):
            return a // divisor
        exact = sizes.divide(a, divisor)
        if exact is not None:
            return exact
        if (a, divisor) not in self._quotients:
            self._quotients[a, divisor] = self.unknown()
        return self._quotients[a, divisor]

    def note_dims(self, tensor: gs.Tensor, dims: Sequence[int | Size | None] | None) -> None:
        """Note what a rule found; numbers that ONNX's inference found come first, what nobody found is an unknown."""
        _, inferred = self._inferred.get(id(tensor), (tensor, None))
        if dims is None or (inferred is not None and len(inferred) != len(dims)):
            dims = None if inferred is None else [None] * len(inferred)
        if dims is not None:
            numbers = inferred if inferred is not None else [None] * len(dims)
            merged = [found if known is None else known for found, known in zip(dims, numbers, strict=True)]
            dims = [self.unknown() if dim is None else dim for dim in merged]
        self._dims[id(tensor)] = None if dims is None else tuple(dim for dim in dims if dim is not None)
        self._held.append(tensor)

    def note_value(self, tensor: gs.Tensor, value: np.ndarray | None) -> None:
        """Note what a rule found out about the elements of a tensor."""
        if value is not None and value.size <= _LARGEST:
            self._values[id(tensor)] = value
            self._held.append(tensor)


def shape_values(graph: gs.Graph) -> ShapeValues:
    """Analysis of a whole model, subgraphs included. Linear in its size."""
    found = ShapeValues(_inferred(graph))
    _walk(graph, found, int(graph.opset))
    return found


def _walk(graph: gs.Graph, found: ShapeValues, opset: int) -> None:
    for node in graph.nodes:
        kind = edit.op(node)
        for body in edit.subgraphs(node):
            _walk(body, found, opset)
        if "::" in kind or not node.outputs:
            continue
        rule = shape_rules.RULES.get(kind)
        found.note_dims(node.outputs[0], rule(node, found, opset) if rule else None)
        compute = value_rules.RULES.get(kind)
        if compute:
            found.note_value(node.outputs[0], compute(node, found, opset))
        elif kind == "Split":
            for tensor, value in zip(node.outputs, value_rules.split(node, found, opset), strict=False):
                found.note_value(tensor, value)


def _countable(constant: gs.Constant) -> bool:
    return (
        constant.dtype is not None
        and np.dtype(constant.dtype) in (np.int64, np.int32, np.bool_)
        and int(np.prod(constant.shape, dtype=np.int64)) <= _LARGEST
    )


def _inferred(graph: gs.Graph) -> Inferred:
    """Numbers that ONNX's shape inference finds from the inputs and constants alone."""
    found: Inferred = {}
    for tensor in graph.inputs:
        if tensor.shape is not None:
            _note(found, tensor, tensor.shape)
    model = infer_types(graph)
    if model is not None:
        _collect(graph, model.graph, found)
    return found


def _collect(graph: gs.Graph, proto: onnx.GraphProto, found: Inferred) -> None:
    infos = {info.name: info for info in [*proto.value_info, *proto.output]}
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        for tensor in node.outputs:
            info = infos.get(tensor.name)
            dims = importer.shape(info.type.tensor_type) if info and info.type.HasField("tensor_type") else None
            if dims is not None:
                _note(found, tensor, dims)
        for body, body_proto in zip(edit.subgraphs(node), bodies(node_proto), strict=True):
            _collect(body, body_proto, found)


def _note(found: Inferred, tensor: gs.Tensor, dims: Sequence[int | str | None]) -> None:
    found[id(tensor)] = (tensor, [dim if isinstance(dim, int) and dim >= 0 else None for dim in dims])
