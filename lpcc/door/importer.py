"""From an ONNX model to a graph.

What graphsurgeon has no place for is carried along as protobuf messages in an attribute `carried`: of the graph a
GraphProto (doc string, metadata, quantization annotations) and, at the root, `carried_model`, a ModelProto; of a node
a NodeProto (doc string, metadata, overload, device configurations, types of attributes that Python values do not
show); of a variable its ValueInfoProto; of a constant its value_info. The exporter writes all of it back.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto

from lpcc import edit
from lpcc.door.lazy import Lazy, Sparse, copy_fields, numpy_dtype
from lpcc.errors import ModelError

_NODE_FIELDS = {"input", "output", "op_type", "attribute", "name", "domain"}
_GRAPH_FIELDS = {"node", "initializer", "sparse_initializer", "input", "output", "value_info", "name", "doc_string"}

Scope = ChainMap[str, gs.Tensor]


def import_model(model: onnx.ModelProto) -> gs.Graph:
    """Graph of a model. The model's tensors are shared, not copied: it must not be changed afterwards.

    Raises:
        ModelError: a local function cannot be inlined, or a name is not UTF-8.
    """
    if model.functions:
        model = _inlined(model)
    opset = _opset(model.opset_import) or 1
    graph = _graph(model.graph, ChainMap(), opset)
    graph.import_domains = list(model.opset_import)
    graph.ir_version = model.ir_version
    graph.producer_name = model.producer_name
    graph.producer_version = model.producer_version
    carried = onnx.ModelProto()
    copy_fields(model, carried, skip={"graph", "functions"})
    graph.carried_model = carried
    edit.index_names(graph)
    return graph


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int | None:
    return next((int(o.version) for o in imports if o.domain in ("", "ai.onnx")), None)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions inlined: a function may be named like an operator or have overloads.

    ONNX inlines no function that states another opset than the model; where all its operators are the same in both,
    it is made to state the model's. Nor does it import what only functions import.
    """
    import onnx.inliner

    aligned = onnx.ModelProto()
    aligned.CopyFrom(model)
    for stated in [stated for function in aligned.functions for stated in function.opset_import]:
        if stated.domain not in {known.domain for known in aligned.opset_import}:
            aligned.opset_import.append(stated)
    opset = _opset(aligned.opset_import)
    for function in aligned.functions:
        for stated in function.opset_import:
            if opset and stated.domain in ("", "ai.onnx") and _same_operators(function.node, stated.version, opset):
                stated.version = opset
    try:
        inlined = onnx.inliner.inline_local_functions(aligned)
    except Exception as error:  # of several kinds, without a common base
        raise ModelError(f"the local functions cannot be inlined: {' '.join(str(error).split())}") from error
    if inlined.functions:
        name = f"{inlined.functions[0].domain}::{inlined.functions[0].name}"
        raise ModelError(f"the local function `{name}` cannot be inlined: it states other operator sets than the model")
    return inlined


def _same_operators(nodes: Iterable[onnx.NodeProto], old: int, new: int) -> bool:
    """Whether the standard operators of all nodes mean the same in both opsets."""

    def since(node: onnx.NodeProto, opset: int) -> int:
        return int(onnx.defs.get_schema(node.op_type, opset, "").since_version)

    for node in nodes:
        if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, ""):
            try:
                same = since(node, old) == since(node, new)
            except onnx.defs.SchemaError:
                return False
            if not same:
                return False
        if not all(_same_operators(a.g.node, old, new) for a in node.attribute if a.HasField("g")):
            return False
    return True


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

    _check_text(scope.maps[0])
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
    copy_fields(proto, graph.carried, skip=_GRAPH_FIELDS)
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
    """Shape of a tensor type: an int, a name or None for each dimension; None where the rank is unknown.

    A negative size is an unknown one: some exporters write -1 for it, and onnxruntime reads it so.
    """
    if not tensor_type.HasField("shape"):
        return None
    found = [
        (d.dim_value if d.dim_value >= 0 else None) if d.HasField("dim_value") else d.dim_param or None
        for d in tensor_type.shape.dim
    ]
    _check_text(dim for dim in found if not isinstance(dim, int | None))
    return found


def _check_text(names: Iterable[str]) -> None:
    """Raise ModelError for a name that is not UTF-8, which protobuf gives as bytes and will not write again."""
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ModelError(f"the name {wrong!r} is not UTF-8")


def _node(proto: onnx.NodeProto, scope: Scope, opset: int) -> gs.Node:
    node = gs.Node(op=proto.op_type, name=proto.name, domain=proto.domain if proto.HasField("domain") else None)
    carried = onnx.NodeProto()
    copy_fields(proto, carried, skip=_NODE_FIELDS)
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
