"""Concrete shapes: every tensor's size once the dimensions that a model leaves open are given values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.concrete import infer

SIZE = 224
"""Taken for an open dimension that is not the batch."""


@dataclass(frozen=True)
class Shapes:
    """The shape of every tensor of one graph and of the graphs nested in it.

    `assumptions` says, in words, what was assumed about dimensions that the model leaves open.
    """

    found: Mapping[int, tuple[int, ...]]
    assumptions: tuple[str, ...] = ()

    def of(self, tensor: gs.Tensor | None) -> tuple[int, ...] | None:
        """Shape of a tensor; None where even its rank is unknown."""
        if tensor is None:
            return None
        if isinstance(tensor, gs.Constant):
            return tuple(int(d) for d in tensor.shape)
        return self.found.get(id(tensor))

    def elements(self, tensor: gs.Tensor | None) -> int:
        """Number of elements; 0 for a tensor that is missing or of unknown shape."""
        shape = self.of(tensor)
        return 0 if shape is None else prod(shape)

    def nbytes(self, tensor: gs.Tensor | None) -> int:
        """Size in bytes, sub-byte formats packed; 0 for a tensor that is missing or of unknown shape."""
        return 0 if tensor is None else -(-self.elements(tensor) * bits(tensor) // 8)


def bits(tensor: gs.Tensor) -> int:
    """Bits per element, sub-byte formats packed; 32 where the type is unknown."""
    return rules.bits(rules.dtype_of(tensor))


def constant_of(tensor: gs.Tensor | None) -> gs.Constant | None:
    """The constant behind a tensor: itself, what a Constant node holds, or the default of a graph input."""
    if tensor is None or isinstance(tensor, gs.Constant):
        return tensor
    found = getattr(tensor, "default", None)
    if found is None and len(tensor.inputs) == 1 and edit.op(tensor.inputs[0]) == "Constant":
        found = tensor.inputs[0].attrs.get("value")
    return found if isinstance(found, gs.Constant) else None


def bind(graph: gs.Graph, sizes: Mapping[str, int] | None = None, *, default: int = SIZE) -> Shapes:
    """Shapes of all tensors of an annotated graph.

    A dimension that the model leaves open takes its value from `sizes`, by its name (``batch``) or its place
    (``images[2]``), else from the `sizes` of the graph itself (see `lpcc.graph`). Where these say nothing, the first
    dimension of an input is 1, any other one `default`, and the result says so. The graph itself is not changed. Shapes
    that do not follow by name alone are inferred from the concrete sizes, node by node.
    """
    values: dict[str, int] = {**graph.__dict__.get("sizes", {}), **(sizes or {})}
    assumptions: list[str] = []
    shapes: dict[int, tuple[int, ...]] = {}
    for tensor in graph.inputs:
        sized = _bind_input(tensor, values, assumptions, default)
        if sized is not None:
            shapes[id(tensor)] = tuple(sized)
    if not _resolve(graph, values, shapes):
        infer(graph, shapes)
    missing = _missing(graph, shapes)
    if missing:
        assumptions.append(f"{missing} tensors of unknown shape are counted as empty")
    return Shapes(shapes, tuple(assumptions))


def _bind_input(tensor: gs.Variable, values: dict[str, int], said: list[str], default: int) -> list[int] | None:
    """Concrete shape of a graph input; notes values for named dimensions, and in `said` what was assumed."""
    if tensor.shape is None:
        return None
    sized = []
    for axis, dim in enumerate(tensor.shape):
        place = f"{tensor.name}[{axis}]"
        if isinstance(dim, int) and dim >= 0:
            sized.append(dim)
            continue
        key = dim if isinstance(dim, str) and dim else place
        if place in values:
            values[key] = values[place]
        elif key not in values:
            values[key] = 1 if axis == 0 else default
            said.append(
                f"dimension {key} of input {tensor.name} taken as {values[key]}"
                if key != place
                else f"dimension {place} taken as {values[key]}"
            )
        sized.append(values[key])
    return sized


def _resolve(graph: gs.Graph, values: Mapping[str, int], shapes: dict[int, tuple[int, ...]]) -> bool:
    """Note the shapes that follow from the tensors' types by name alone; whether that is all of them."""
    complete = True
    for node in edit.nodes(graph):
        for tensor in node.outputs:
            if tensor.name == "" or id(tensor) in shapes:
                continue
            shape = tensor.shape
            if shape is None:
                complete = False
                continue
            sized = [values.get(d, -1) if isinstance(d, str) else d for d in shape]
            if all(isinstance(d, int) and d >= 0 for d in sized):
                shapes[id(tensor)] = tuple(sized)
            else:
                complete = False
    return complete


def _missing(graph: gs.Graph, shapes: Mapping[int, tuple[int, ...]]) -> int:
    """How many tensors have no known shape."""
    tensors = (tensor for node in edit.nodes(graph) for tensor in node.outputs)
    return sum(tensor.name != "" and id(tensor) not in shapes for tensor in tensors)
