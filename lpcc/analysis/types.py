"""Types of all tensors by ONNX's shape inference, written onto the variables themselves."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from lpcc import edit
from lpcc.door import importer
from lpcc.door.lazy import elem_type
from lpcc.graph import to_proto

_SMALL = 1024  # elements; larger constants say nothing about shapes


def annotate(graph: gs.Graph) -> None:
    """Fill in `dtype` and `shape` of every variable that shape inference finds, in subgraphs too.

    What is known already and more precise than what is inferred stays. Where inference fails (a custom operator, a
    model that contradicts itself), what is known stays as it is.
    """
    model = to_proto(graph)
    weights_to_inputs(model.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return
    _apply(graph, inferred.graph)


def forget(graph: gs.Graph) -> None:
    """Drop the types of all tensors between the inputs and the outputs; for passes that change shapes."""
    for scope in edit.graphs(graph):
        ends = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
        for node in scope.nodes:
            for tensor in node.outputs:
                if id(tensor) not in ends and not _is_other_kind(tensor):
                    tensor.dtype, tensor.shape = None, None


def _is_other_kind(tensor: gs.Variable) -> bool:
    carried = getattr(tensor, "carried", None)
    return carried is not None and carried.HasField("type") and not carried.type.HasField("tensor_type")


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
    for node, node_proto in zip(graph.nodes, proto.node, strict=True):
        for tensor in node.outputs:
            if tensor.name in infos and not isinstance(tensor, gs.Constant):
                _refine(tensor, infos[tensor.name])
        bodies = [a.g for a in node_proto.attribute if a.HasField("g")]
        bodies += [g for a in node_proto.attribute for g in a.graphs]
        inner = edit.subgraphs(node)
        if len(inner) == len(bodies):
            for body, body_proto in zip(inner, bodies, strict=True):
                _apply(body, body_proto)


def _refine(tensor: gs.Variable, info: onnx.ValueInfoProto) -> None:
    if not info.type.HasField("tensor_type"):
        if info.HasField("type") and tensor.dtype is None and getattr(tensor, "carried", None) is None:
            tensor.carried = info
        return
    found = importer.variable(info)
    if tensor.dtype is None or elem_type(tensor.dtype) == 0:
        tensor.dtype = found.dtype
    if found.shape is None:
        return
    if tensor.shape is None or len(tensor.shape) != len(found.shape):
        tensor.shape = found.shape
    else:
        tensor.shape = [
            new if isinstance(new, int) or old is None else old
            for old, new in zip(tensor.shape, found.shape, strict=True)
        ]
