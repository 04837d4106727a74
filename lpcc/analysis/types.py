"""Types of all tensors by ONNX's shape inference, written onto the variables themselves."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from lpcc import edit
from lpcc.door import importer
from lpcc.door.lazy import elem_type
from lpcc.graph import to_proto

_FAR = 2**20  # elements of a Range
_SMALL = 1024  # elements; larger constants say nothing about shapes


def annotate(graph: gs.Graph) -> None:
    """Fill in `dtype` and `shape` of every variable that shape inference finds, in subgraphs too.

    Shapes follow from the inputs of the model and the constants alone. What the model states of tensors in between goes
    stale when somebody makes its batch dynamic; it stays only where inference finds nothing (behind a custom operator,
    in a model that contradicts itself).
    """
    model = infer_types(graph)
    if model is not None:
        _apply(graph, model.graph)


def infer_types(graph: gs.Graph) -> onnx.ModelProto | None:
    """The model with what ONNX's shape inference finds from its inputs and constants alone; None where that fails.

    Nodes are those of the graph, in order; large weights are declared as inputs.
    """
    model = to_proto(graph)
    _forget(model.graph, is_body=False)
    weights_to_inputs(model.graph)
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=not counts_far(edit.nodes(graph)))
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return None


def counts_far(nodes: Iterable[gs.Node]) -> bool:
    """Whether a Range of constants is so long that ONNX, which propagates it element by element, takes all memory."""
    for node in nodes:
        if edit.op(node) == "Range":
            start, limit, delta = (edit.scalar(edit.inp(node, place)) for place in range(3))
            if start is not None and limit is not None and delta and abs(limit - start) > _FAR * abs(delta):
                return True
    return False


def _forget(proto: onnx.GraphProto, *, is_body: bool) -> None:
    """Drop the shapes that the model states of anything but its inputs."""
    del proto.value_info[:]
    for info in [*proto.output, *(proto.input if is_body else [])]:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
    for node in proto.node:
        for body in bodies(node):
            _forget(body, is_body=True)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes, in the order of `lpcc.edit.subgraphs`."""
    return [body for a in node.attribute for body in ([a.g] if a.HasField("g") else a.graphs)]


def weights_to_inputs(proto: onnx.GraphProto) -> None:
    """Declare large weights as inputs, so that inference need not carry their data."""
    keep = []
    listed = {info.name for info in proto.input}
    for tensor in proto.initializer:
        if sum(tensor.dims[:1]) <= _SMALL and _count(tensor) <= _SMALL:
            keep.append(tensor)
        elif tensor.name not in listed:
            proto.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    if len(keep) != len(proto.initializer):
        del proto.initializer[:]
        proto.initializer.extend(keep)


def _count(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count


def _apply(graph: gs.Graph, proto: onnx.GraphProto) -> None:
    infos = {info.name: info for info in [*proto.value_info, *proto.output]}
    pinned = {id(tensor) for tensor in graph.outputs if getattr(tensor, "carried", None) is None}
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        for tensor in node.outputs:
            if tensor.name in infos and not isinstance(tensor, gs.Constant):
                _take(tensor, infos[tensor.name], pinned)
        for body, body_proto in zip(edit.subgraphs(node), bodies(node_proto), strict=True):
            _apply(body, body_proto)


def _take(tensor: gs.Variable, info: onnx.ValueInfoProto, pinned: set[int]) -> None:
    """Take over what was found; of a `pinned` tensor, whose own type is the interface, the shape stays."""
    if not info.type.HasField("tensor_type"):
        if info.HasField("type") and tensor.dtype is None and getattr(tensor, "carried", None) is None:
            tensor.carried = info
        return
    found = importer.variable(info)
    if tensor.dtype is None or elem_type(tensor.dtype) == 0:
        tensor.dtype = found.dtype
    if found.shape is not None and (tensor.shape is None or id(tensor) not in pinned):
        tensor.shape = found.shape
