"""From a graph to an ONNX model: the inverse of the importer, and the last check that names are sound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, helper, numpy_helper

from lpcc import edit
from lpcc.door import importer
from lpcc.door.lazy import Lazy, Sparse, elem_type, numpy_dtype
from lpcc.errors import PassError

_FIRST_IR_WITH_FREE_INITIALIZERS = 4


def export_model(graph: gs.Graph) -> onnx.ModelProto:
    """Model of a graph.

    Raises:
        PassError: two tensors share a name, or an attribute has a value that ONNX has no type for.
    """
    model = onnx.ModelProto()
    carried = graph.__dict__.get("carried_model")
    if carried is not None:
        model.CopyFrom(carried)
    _set(model, "producer_name", graph.producer_name)
    _set(model, "producer_version", graph.producer_version)
    _graph(graph, model.graph, owned=owned_constants(graph), taken={})
    del model.opset_import[:]
    model.opset_import.extend(_opsets(graph))
    model.ir_version = graph.ir_version or helper.find_min_ir_version_for(list(model.opset_import), True)
    if model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS:
        listed = {info.name for info in model.graph.input}
        if any(tensor.name not in listed for tensor in model.graph.initializer):
            model.ir_version = _FIRST_IR_WITH_FREE_INITIALIZERS
    return model


def _set(proto: Any, field: str, text: str | None) -> None:
    """Set a text field; one that was absent stays absent rather than empty."""
    if text:
        setattr(proto, field, text)
    elif getattr(proto, field):
        proto.ClearField(field)


def _opsets(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """The opset imports: `graph.opset` for ONNX's own domain, the stated ones for others, 1 for those never stated."""
    stated = {_domain(o.domain): o for o in graph.import_domains or []}
    for node in edit.nodes(graph):
        domain = _domain(node.domain)
        if domain not in stated:
            stated[domain] = helper.make_opsetid(domain, 1)
    if not stated:
        stated[""] = helper.make_opsetid("", 1)
    imports = []
    for domain, opset in stated.items():
        written = onnx.OperatorSetIdProto()
        written.CopyFrom(opset)
        if domain == "":
            written.version = int(graph.opset)
        imports.append(written)
    return imports


def _domain(name: str | None) -> str:
    return "" if name in (None, "ai.onnx") else str(name)


def owned_constants(root: gs.Graph) -> dict[int, list[gs.Constant]]:
    """For each graph, by id, the constants that it declares: those that no single graph inside it uses alone."""
    if not any(edit.subgraphs(node) for node in root.nodes):
        return {id(root): _ordered(_direct(root))}
    owned: dict[int, list[gs.Constant]] = {}
    _collect(root, owned)
    return owned


def _direct(graph: gs.Graph) -> Iterable[gs.Constant]:
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.name:
                yield tensor
    for tensor in [*graph.outputs, *graph.__dict__.get("loose", [])]:
        if isinstance(tensor, gs.Constant):
            yield tensor


def _ordered(constants: Iterable[gs.Constant]) -> list[gs.Constant]:
    return list({id(constant): constant for constant in constants}.values())


def _collect(graph: gs.Graph, owned: dict[int, list[gs.Constant]]) -> dict[int, gs.Constant]:
    """Fill `owned` for this graph and those in it; return all constants used within."""
    here = {id(constant): constant for constant in _direct(graph)}
    everything = dict(here)
    seen: dict[int, int] = {}
    inner: list[tuple[gs.Graph, dict[int, gs.Constant]]] = []
    for node in graph.nodes:
        for body in edit.subgraphs(node):
            used = _collect(body, owned)
            inner.append((body, used))
            for key in used:
                seen[key] = seen.get(key, 0) + 1
            everything.update(used)
    shared = {key for key, count in seen.items() if count > 1 or key in here}
    for body, _ in inner:
        _give_up(body, shared, owned)
    owned[id(graph)] = [constant for key, constant in everything.items() if key in here or key in shared]
    return everything


def _give_up(graph: gs.Graph, shared: set[int], owned: dict[int, list[gs.Constant]]) -> None:
    for scope in edit.graphs(graph):
        owned[id(scope)] = [constant for constant in owned[id(scope)] if id(constant) not in shared]


def _graph(graph: gs.Graph, proto: onnx.GraphProto, owned: dict[int, list[gs.Constant]], taken: dict[str, int]) -> None:
    """Write `graph` into `proto`. `taken` maps the names that are visible here to the ids of their tensors."""
    carried = graph.__dict__.get("carried")
    if carried is not None:
        proto.CopyFrom(carried)
    proto.name = graph.name or "graph"
    _set(proto, "doc_string", graph.doc_string)
    visible = dict(taken)
    local: set[str] = set()

    def declare(tensor: gs.Tensor) -> None:
        if visible.setdefault(tensor.name, id(tensor)) != id(tensor):
            raise PassError(f"two different tensors are named `{tensor.name}`: make names with Edit.fresh")
        local.add(tensor.name)

    for tensor in graph.inputs:
        declare(tensor)
        proto.input.append(_value_info(tensor))
        default = getattr(tensor, "default", None)
        if default is not None:
            _constant(default, tensor.name, proto)
    for constant in owned[id(graph)]:
        declare(constant)
        _constant(constant, constant.name, proto)
        info = getattr(constant, "carried", None)
        if info is not None and _states(info, constant.dtype, constant.shape):
            proto.value_info.append(info)
            _set(proto.value_info[-1], "name", constant.name)
    ends = {id(tensor) for tensor in [*graph.inputs, *graph.outputs]}
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.name:
                declare(tensor)
                if id(tensor) not in ends and _has_type(tensor):
                    proto.value_info.append(_value_info(tensor))
    for tensor in graph.outputs:
        proto.output.append(_interface(tensor))
    for node in graph.nodes:
        _node(node, proto.node.add(), owned, visible)


def _has_type(tensor: gs.Variable) -> bool:
    carried = getattr(tensor, "carried", None)
    return tensor.dtype is not None or (carried is not None and carried.HasField("type"))


def _states(info: onnx.ValueInfoProto, dtype: Any, shape: Any) -> bool:
    """Whether a value_info still says what is true of a tensor."""
    kind = info.type.tensor_type
    stated = importer.shape(kind)
    if not info.type.HasField("tensor_type") or numpy_dtype(kind.elem_type) != dtype:
        return False
    return stated == (None if shape is None else list(shape))


def _interface(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """Type of a graph output: as the model came, even where shape inference has since found out more."""
    carried = getattr(tensor, "carried", None)
    if carried is None or not carried.HasField("type"):
        return _value_info(tensor)
    info = onnx.ValueInfoProto()
    info.CopyFrom(carried)
    info.name = tensor.name
    return info


def _stated_shape(tensor: gs.Tensor) -> list[Any] | None:
    """Shape of a tensor without the names that shape inference makes up for sizes it does not know.

    onnxruntime would take them for sizes of their own: it then leaves the sum after a convolution apart.
    """
    if tensor.shape is None:
        return None
    return [None if isinstance(dim, str) and dim.startswith("unk__") else dim for dim in tensor.shape]


def _value_info(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """Type of a tensor: the one it came with, with its doc string and denotations, if that still holds."""
    carried = getattr(tensor, "carried", None)
    if carried is not None:
        other_kind = carried.HasField("type") and not carried.type.HasField("tensor_type")
        if other_kind or _states(carried, tensor.dtype, tensor.shape):
            info = onnx.ValueInfoProto()
            info.CopyFrom(carried)
            info.name = tensor.name
            return info
    if tensor.dtype is None:
        info = helper.make_empty_tensor_value_info(tensor.name)
    else:
        info = helper.make_tensor_value_info(tensor.name, elem_type(tensor.dtype), _stated_shape(tensor))
    if carried is not None:
        _set(info, "doc_string", carried.doc_string)
        info.metadata_props.extend(carried.metadata_props)
    return info


def _constant(constant: gs.Constant, name: str, proto: onnx.GraphProto) -> None:
    if isinstance(constant._values, Sparse):
        sparse = proto.sparse_initializer.add()
        sparse.CopyFrom(constant._values.tensor)
        sparse.values.name = name
    else:
        _tensor(constant, name, proto.initializer.add())


def _tensor(constant: gs.Constant, name: str, proto: onnx.TensorProto) -> None:
    """Write the values; those never read go byte for byte."""
    if isinstance(constant._values, Lazy):
        proto.CopyFrom(constant._values.tensor)
    else:
        proto.CopyFrom(numpy_helper.from_array(np.asarray(constant.values)))
    if proto.name != name:
        _set(proto, "name", name)


def _node(node: gs.Node, proto: onnx.NodeProto, owned: dict[int, list[gs.Constant]], visible: dict[str, int]) -> None:
    carried: onnx.NodeProto | None = getattr(node, "carried", None)
    kept: dict[str, onnx.AttributeProto] = {}
    if carried is not None:
        proto.CopyFrom(carried)
        kept = {attribute.name: attribute for attribute in carried.attribute}
        del proto.attribute[:]
    proto.op_type = node.op
    _set(proto, "name", node.name)
    if node.domain is not None:
        proto.domain = node.domain
    proto.input.extend(tensor.name for tensor in node.inputs)
    proto.output.extend(tensor.name for tensor in node.outputs)
    for name, value in node.attrs.items():
        attribute = proto.attribute.add()
        attribute.name = name
        if name in kept:
            _set(attribute, "doc_string", kept[name].doc_string)
        if isinstance(value, list) and not value:
            attribute.type = kept[name].type if name in kept else AttributeProto.INTS
        else:
            _attribute(value, attribute, owned, visible, edit.label(node))


def _attribute(
    value: Any,
    proto: onnx.AttributeProto,
    owned: dict[int, list[gs.Constant]],
    visible: dict[str, int],
    where: str,
) -> None:
    """Fill in type and value of an attribute, whose name is set."""
    name = proto.name
    if isinstance(value, onnx.AttributeProto):
        proto.CopyFrom(value)
        proto.name = name
    elif isinstance(value, gs.Constant):
        proto.type = AttributeProto.TENSOR
        _tensor(value, value.name or "", proto.t)
    elif isinstance(value, np.ndarray):
        proto.type = AttributeProto.TENSOR
        proto.t.CopyFrom(numpy_helper.from_array(value))
    elif isinstance(value, gs.Graph):
        proto.type = AttributeProto.GRAPH
        _graph(value, proto.g, owned, visible)
    elif isinstance(value, (list, tuple)) and isinstance(value[0], gs.Graph):
        proto.type = AttributeProto.GRAPHS
        for body in value:
            _graph(body, proto.graphs.add(), owned, visible)
    elif isinstance(value, (bool, int, np.integer, np.bool_)):
        proto.type = AttributeProto.INT
        proto.i = int(value)
    elif isinstance(value, (float, np.floating)):
        proto.type = AttributeProto.FLOAT
        proto.f = float(value)
    elif isinstance(value, str):
        proto.type = AttributeProto.STRING
        proto.s = value.encode()
    elif isinstance(value, (list, tuple)) and all(isinstance(v, (int, np.integer)) for v in value):
        proto.type = AttributeProto.INTS
        proto.ints.extend(int(v) for v in value)
    elif isinstance(value, (list, tuple)) and all(isinstance(v, (int, float, np.number)) for v in value):
        proto.type = AttributeProto.FLOATS
        proto.floats.extend(float(v) for v in value)
    elif isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        proto.type = AttributeProto.STRINGS
        proto.strings.extend(v.encode() for v in value)
    else:
        raise PassError(f"attribute `{name}` of node `{where}` has a value of type {type(value).__name__}: not ONNX")
