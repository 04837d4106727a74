"""From an ONNX model to a graph.

What graphsurgeon has no place for is carried along as protobuf messages in an attribute `carried`: of the graph a
GraphProto (doc string, metadata, quantization annotations) and, at the root, `carried_model`, a ModelProto; of a node
a NodeProto (doc string, metadata, overload, device configurations, types of attributes that Python values do not
show); of a variable its ValueInfoProto; of a constant its value_info. The exporter writes all of it back.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from lpcc import edit
from lpcc.door.lazy import Lazy, Sparse, numpy_dtype

_NODE_FIELDS = {"input", "output", "op_type", "attribute", "name", "domain"}
_GRAPH_FIELDS = {"node", "initializer", "sparse_initializer", "input", "output", "value_info", "name", "doc_string"}

Scope = ChainMap[str, gs.Tensor]


def import_model(model: onnx.ModelProto) -> gs.Graph:
    """Graph of a model. The model's tensors are shared, not copied: it must not be changed afterwards."""
    if model.functions:
        model = _inlined(model)
    opset = next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    graph = _graph(model.graph, ChainMap(), opset)
    graph.import_domains = list(model.opset_import)
    graph.ir_version = model.ir_version
    graph.producer_name = model.producer_name
    graph.producer_version = model.producer_version
    carried = onnx.ModelProto()
    _copy_fields(model, carried, skip={"graph", "functions"})
    graph.carried_model = carried
    edit.index_names(graph)
    return graph


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions inlined: a function may be named like an operator or have overloads."""
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


def _graph(proto: onnx.GraphProto, outer: Scope, opset: int) -> gs.Graph:
    scope: Scope = outer.new_child()
    constants: dict[str, gs.Constant] = {}
    for tensor in proto.initializer:
        constants[tensor.name] = gs.Constant(tensor.name, Lazy(tensor))
    for sparse in proto.sparse_initializer:
        constants[sparse.values.name] = gs.Constant(sparse.values.name, Sparse(sparse))

    inputs = []
    for info in proto.input:
        tensor = variable(info)
        tensor.default = constants.pop(info.name, None)  # an initialiser that callers may override is no constant
        scope[info.name] = tensor
        inputs.append(tensor)
    scope.update(constants)

    # Local names are known before any node is read: a result may shadow nothing, and order is not yet trusted.
    infos = {info.name: info for info in [*proto.value_info, *proto.output]}
    for node in proto.node:
        for name in node.output:
            if name and name not in scope.maps[0]:
                scope[name] = variable(infos[name]) if name in infos else gs.Variable(name)
    for name, constant in constants.items():
        if name in infos:
            constant.carried = infos[name]

    nodes = [_node(node, scope, opset) for node in proto.node]
    outputs = []
    for info in proto.output:
        if info.name not in scope:
            scope[info.name] = variable(info)
        outputs.append(scope[info.name])

    graph = gs.Graph(
        nodes=nodes, inputs=inputs, outputs=outputs, name=proto.name, doc_string=proto.doc_string, opset=opset
    )
    graph.name = proto.name
    graph.loose = [constant for constant in constants.values() if not constant.outputs]
    graph.carried = onnx.GraphProto()
    _copy_fields(proto, graph.carried, skip=_GRAPH_FIELDS)
    return graph


def variable(info: onnx.ValueInfoProto) -> gs.Variable:
    """A variable with the type that `info` states; what is not a plain tensor keeps its type in `carried` alone."""
    made = gs.Variable(info.name)
    made.carried = info
    if info.type.HasField("tensor_type"):
        made.dtype = numpy_dtype(info.type.tensor_type.elem_type)
        made.shape = shape(info.type.tensor_type)
    return made


def shape(tensor_type: onnx.TypeProto.Tensor) -> list[int | str | None] | None:
    """Shape of a tensor type: an int, a name or None for each dimension; None where the rank is unknown."""
    if not tensor_type.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) if d.HasField("dim_param") else None
        for d in tensor_type.shape.dim
    ]


def _node(proto: onnx.NodeProto, scope: Scope, opset: int) -> gs.Node:
    node = gs.Node(op=proto.op_type, name=proto.name, domain=proto.domain if proto.HasField("domain") else None)
    carried = onnx.NodeProto()
    _copy_fields(proto, carried, skip=_NODE_FIELDS)
    for attribute in proto.attribute:
        node.attrs[attribute.name] = _attribute(attribute, scope, opset)
        if attribute.doc_string or _is_empty_list(attribute):
            carried.attribute.append(attribute)
    node.carried = carried
    inputs = [_lookup(name, scope) for name in proto.input]
    outputs = [scope.maps[0][name] if name else gs.Variable.empty() for name in proto.output]
    return edit.link(node, inputs, outputs)


def _lookup(name: str, scope: Scope) -> gs.Tensor:
    if not name:
        return gs.Variable.empty()
    if name not in scope:
        scope[name] = gs.Variable(name)
    return scope[name]


def _is_empty_list(attribute: onnx.AttributeProto) -> bool:
    lists = {
        AttributeProto.FLOATS: attribute.floats,
        AttributeProto.INTS: attribute.ints,
        AttributeProto.STRINGS: attribute.strings,
        AttributeProto.GRAPHS: attribute.graphs,
    }
    return attribute.type in lists and not lists[attribute.type]


def _attribute(attribute: onnx.AttributeProto, scope: Scope, opset: int) -> Any:
    """Python value of an attribute; the message itself where Python has no faithful value for it."""
    kind = attribute.type
    try:
        if kind == AttributeProto.STRING:
            return attribute.s.decode()
        if kind == AttributeProto.STRINGS:
            return [s.decode() for s in attribute.strings]
    except UnicodeDecodeError:
        return attribute
    if kind == AttributeProto.INT:
        return attribute.i
    if kind == AttributeProto.FLOAT:
        return attribute.f
    if kind == AttributeProto.INTS:
        return list(attribute.ints)
    if kind == AttributeProto.FLOATS:
        return list(attribute.floats)
    if kind == AttributeProto.TENSOR:
        return gs.Constant(attribute.t.name, Lazy(attribute.t))
    if kind == AttributeProto.GRAPH:
        return _graph(attribute.g, scope, opset)
    if kind == AttributeProto.GRAPHS:
        return [_graph(g, scope, opset) for g in attribute.graphs]
    return attribute


def _copy_fields(source: Any, target: Any, skip: set[str]) -> None:
    """Copy all fields that are set, also those that later versions of ONNX add, but not those in `skip`."""
    for field, value in source.ListFields():
        if field.name in skip:
            continue
        if isinstance(value, (int, float, str, bytes)):
            setattr(target, field.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            getattr(target, field.name).extend(value)
