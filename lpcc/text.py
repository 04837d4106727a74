"""Graphs as text: deterministic, for people to read and for tests to compare.

Close to ONNX's own text syntax, with what that leaves out: the type of every result, sorted attributes, subgraphs
indented. Constants of up to eight elements show their values, larger ones only their type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, helper

from lpcc.door import importer
from lpcc.door.exporter import owned_constants
from lpcc.door.lazy import Lazy, elem_type, numpy_dtype

_SHOWN = 8


def print_graph(graph: gs.Graph) -> str:
    """Text of a whole model: header, inputs and outputs, constants, nodes in order."""
    opsets = {o.domain: o.version for o in graph.import_domains or [] if o.domain not in ("", "ai.onnx")}
    domains = ", ".join(f'"{domain}": {version}' for domain, version in [("", graph.opset), *sorted(opsets.items())])
    lines = [f"<opset: [{domains}]>"]
    lines += _scope(graph, owned_constants(graph), indent="")
    return "\n".join(lines) + "\n"


def type_text(dtype: Any, shape: Any) -> str:
    """A type as ``float[N,3,?,?]``: ``?`` an unknown dimension, ``[...]`` an unknown rank, ``?`` an unknown type."""
    known = dtype is not None
    name = helper.tensor_dtype_to_string(elem_type(dtype)).removeprefix("TensorProto.").lower() if known else "?"
    if shape is None:
        return f"{name}[...]"
    dims = ",".join("?" if dim is None else str(dim) for dim in shape)
    return f"{name}[{dims}]" if shape or dtype is None else name


def kind_text(kind: onnx.TypeProto) -> str:
    """A type of any kind: a tensor's as `type_text` has it, ``seq(...)``, ``optional(...)``, ``map(key, ...)``."""
    match kind.WhichOneof("value"):
        case "tensor_type":
            return type_text(numpy_dtype(kind.tensor_type.elem_type), importer.shape(kind.tensor_type))
        case "sparse_tensor_type":
            sparse = kind.sparse_tensor_type
            return f"sparse({type_text(numpy_dtype(sparse.elem_type), importer.shape(sparse))})"
        case "sequence_type":
            return f"seq({kind_text(kind.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({kind_text(kind.optional_type.elem_type)})"
        case "map_type":
            return f"map({type_text(numpy_dtype(kind.map_type.key_type), [])}, {kind_text(kind.map_type.value_type)})"
        case other:
            return other or "?"


def _tensor_type(tensor: gs.Tensor) -> str:
    carried = getattr(tensor, "carried", None)
    if carried is not None and carried.HasField("type") and not carried.type.HasField("tensor_type"):
        return kind_text(carried.type)
    return type_text(tensor.dtype, tensor.shape)


def _quote(name: str) -> str:
    return name if name.replace(".", "_").isidentifier() else f"'{name}'"


def _declared(tensor: gs.Tensor) -> str:
    default = getattr(tensor, "default", None)
    suffix = "" if default is None else f" = {_values(default)}"
    return f"{_tensor_type(tensor)} {_quote(tensor.name)}{suffix}"


def _values(constant: gs.Constant) -> str:
    if int(np.prod(constant.shape, dtype=np.int64)) > _SHOWN:
        return "{...}"
    values = np.asarray(constant.values)
    flat = values.reshape(-1).tolist()
    return "{" + ", ".join(_number(value) for value in flat) + "}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value) if isinstance(value, (str, bytes)) else str(value)


def _scope(graph: gs.Graph, owned: dict[int, list[gs.Constant]], indent: str) -> list[str]:
    inputs = ", ".join(_declared(tensor) for tensor in graph.inputs)
    outputs = ", ".join(_declared(tensor) for tensor in graph.outputs)
    inner = indent + "  "
    lines = [f"{indent}{_quote(graph.name or 'graph')} ({inputs}) => ({outputs}) {{"]
    constants = sorted(owned[id(graph)], key=lambda constant: str(constant.name))
    lines += [f"{inner}{_declared(constant)} = {_values(constant)}" for constant in constants]
    for node in graph.nodes:
        lines += _node(node, owned, inner)
    lines.append(indent + "}")
    return lines


def _node(node: gs.Node, owned: dict[int, list[gs.Constant]], indent: str) -> list[str]:
    outputs = ", ".join(_declared(t) if t.name else '""' for t in node.outputs)
    inputs = ", ".join(_quote(t.name) if t.name else '""' for t in node.inputs)
    plain = ", ".join(_attributes(node))
    domain = f"{node.domain}." if node.domain not in (None, "", "ai.onnx") else ""
    lines = [f"{indent}{outputs} = {domain}{node.op}{f'<{plain}>' if plain else ''}({inputs})"]
    for name, bodies in sorted(_bodies(node)):
        for body in bodies:
            lines.append(f"{indent}  {name}:")
            lines += _scope(body, owned, indent + "  ")
    return lines


def _bodies(node: gs.Node) -> Iterator[tuple[str, list[gs.Graph]]]:
    for name, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            yield name, [value]
        elif isinstance(value, list) and value and isinstance(value[0], gs.Graph):
            yield name, value


def _attributes(node: gs.Node) -> Iterator[str]:
    graphs = {name for name, _ in _bodies(node)}
    for name in sorted(node.attrs):
        if name not in graphs:
            yield f"{name}={_attribute(node.attrs[name])}"


def _attribute(value: Any) -> str:
    if isinstance(value, gs.Constant):
        return f"{type_text(value.dtype, value.shape)} {_values(value)}"
    if isinstance(value, onnx.AttributeProto):
        return _message(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_number(item) for item in value) + "]"
    return _number(value)


def _message(attribute: onnx.AttributeProto) -> str:
    """An attribute that Python values do not show: bytes, types, lists of tensors, sparse tensors."""
    match attribute.type:
        case AttributeProto.STRING:
            return repr(attribute.s)
        case AttributeProto.STRINGS:
            return repr(list(attribute.strings))
        case AttributeProto.TENSORS:
            return f"[{', '.join(_attribute(gs.Constant(tensor.name, Lazy(tensor))) for tensor in attribute.tensors)}]"
        case AttributeProto.TYPE_PROTO:
            return kind_text(attribute.tp)
        case AttributeProto.TYPE_PROTOS:
            return f"[{', '.join(map(kind_text, attribute.type_protos))}]"
        case _:
            return " ".join(str(attribute).split())
