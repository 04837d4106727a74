"""Shape inference on concrete numbers, node by node, computing the small tensors that shapes depend on.

ONNX's own inference gives up where sizes run through Slice, Where, Range and the like; with every input of known
size these are plain arithmetic.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from lpcc import edit
from lpcc.graph import to_proto

_SMALL = 1024  # elements: what is larger is no shape
_DEFAULT_DOMAIN = ""

_AS_FIRST_INPUT = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "Elu",
        "Selu",
        "HardSigmoid",
        "HardSwish",
        "Softplus",
        "PRelu",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Abs",
        "Neg",
        "Identity",
        "Dropout",
        "Cast",
        "Softmax",
        "LogSoftmax",
        "BatchNormalization",
        "LayerNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
        "com.microsoft::QLinearAdd",
        "com.microsoft::QLinearMul",
        "com.microsoft::QLinearSigmoid",
        "com.microsoft::QLinearSoftmax",
        "com.microsoft::QLinearLeakyRelu",
        "com.microsoft::Gelu",
        "com.microsoft::QuickGelu",
        "com.microsoft::FastGelu",
        "com.microsoft::QuantizeLinear",
        "com.microsoft::DequantizeLinear",
    ]
)


_REFUSED = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    RuntimeError,
    ValueError,
)


def infer(graph: gs.Graph, shapes: dict[int, tuple[int, ...]]) -> None:
    """Add to `shapes` (by ``id(tensor)``) what follows from those known already, branches of If included.

    A node that cannot be inferred is passed over: its outputs stay unknown. What an If returns has the sizes of the
    branch that it takes, or of the first one known; a Pad by amounts that are not known is taken to add nothing.
    """
    model = to_proto(graph)
    version = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 1)
    _infer_nodes(graph, model.graph, version, shapes, {})


def _infer_nodes(
    graph: gs.Graph,
    body: onnx.GraphProto,
    version: int,
    shapes: dict[int, tuple[int, ...]],
    values: dict[int, np.ndarray],
) -> None:
    for node, proto in zip(graph.nodes, body.node, strict=True):
        op = edit.op(node)
        if op == "If":
            _infer_branches(node, proto, version, shapes, values)
        standard = "::" not in op
        if standard and any(tensor.name and id(tensor) not in shapes for tensor in node.outputs):
            _infer_node(node, proto, version, shapes, values)
        as_first = op in _AS_FIRST_INPUT or (op == "Pad" and id(node.outputs[0]) not in shapes)
        if as_first and node.inputs and id(node.inputs[0]) in shapes:
            shapes.setdefault(id(node.outputs[0]), shapes[id(node.inputs[0])])
        if standard:
            _evaluate(node, version, shapes, values)


def _infer_branches(
    node: gs.Node,
    proto: onnx.NodeProto,
    version: int,
    shapes: dict[int, tuple[int, ...]],
    values: dict[int, np.ndarray],
) -> None:
    known = _value(node.inputs[0], values)
    taken = None if known is None else "then_branch" if known.any() else "else_branch"
    for attribute in sorted(proto.attribute, key=lambda attribute: attribute.name != taken):
        branch = node.attrs.get(attribute.name)
        if not isinstance(branch, gs.Graph):
            continue
        _infer_nodes(branch, attribute.g, version, shapes, values)
        for tensor, inner in zip(node.outputs, branch.outputs, strict=False):
            if id(inner) in shapes:
                shapes.setdefault(id(tensor), shapes[id(inner)])


def _infer_node(
    node: gs.Node,
    proto: onnx.NodeProto,
    version: int,
    shapes: dict[int, tuple[int, ...]],
    values: dict[int, np.ndarray],
) -> None:
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for tensor, name in zip(node.inputs, proto.input, strict=False):
        if name == "":
            continue
        shape = tuple(tensor.shape) if isinstance(tensor, gs.Constant) else shapes.get(id(tensor))
        if tensor.dtype is None:
            return
        types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), shape)
        known = _value(tensor, values)
        if known is not None:
            data[name] = numpy_helper.from_array(known, name)
    try:
        schema = onnx.defs.get_schema(proto.op_type, version, _DEFAULT_DOMAIN)
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=[helper.make_opsetid(_DEFAULT_DOMAIN, version)]
        )
    except _REFUSED:
        return
    for tensor, name in zip(node.outputs, proto.output, strict=True):
        if name in found and found[name].HasField("tensor_type") and found[name].tensor_type.HasField("shape"):
            dims = found[name].tensor_type.shape.dim
            if all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
                shapes.setdefault(id(tensor), tuple(dim.dim_value for dim in dims))


def _evaluate(node: gs.Node, version: int, shapes: dict[int, tuple[int, ...]], values: dict[int, np.ndarray]) -> None:
    """Note what a node makes if that is a small tensor that follows from shapes alone."""
    if len(node.outputs) != 1 or edit.subgraphs(node) or not (node.inputs or node.op == "Constant"):
        return
    out = node.outputs[0]
    if prod(shapes.get(id(out), (_SMALL + 1,))) > _SMALL:
        return
    first = edit.inp(node, 0)
    if node.op == "Shape" and first is not None:
        shape = tuple(first.shape) if isinstance(first, gs.Constant) else shapes.get(id(first))
        if shape is not None:
            window = slice(edit.attr(node, "start", 0), edit.attr(node, "end", None))
            values[id(out)] = np.asarray(shape, dtype=np.int64)[window]
        return
    if node.op == "Constant":
        value = node.attrs.get("value")
        known = value.values if isinstance(value, gs.Constant) else next(iter(node.attrs.values()), None)
        if isinstance(known, np.ndarray | int | float | list):
            values[id(out)] = np.asarray(known)
        return
    arguments = [None if tensor.name == "" else _value(tensor, values) for tensor in node.inputs]
    if any(a is None and t.name for a, t in zip(arguments, node.inputs, strict=True)):
        return
    attrs = {k: numpy_helper.from_array(v.values) if isinstance(v, gs.Constant) else v for k, v in node.attrs.items()}
    computed = compute(str(node.op), version, arguments, attrs)
    if computed is not None:
        values[id(out)] = computed


def compute(op: str, version: int, arguments: list[np.ndarray | None], attrs: dict[str, Any]) -> np.ndarray | None:
    """Result of one operator in ONNX's reference implementation; None where it has none for these."""
    if op.startswith(("Random", "Multinomial", "Bernoulli")):
        return None
    from onnx.reference.ops._op_list import load_op

    try:
        try:
            result = load_op("", op, version).eval(*arguments, **attrs)
        except (AssertionError, RuntimeError):  # of operators that it has only as functions
            result = _as_function(op, version, arguments, attrs)
    except Exception:  # whatever the reference implementation does with arguments that it does not support
        return None
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None


def _as_function(op: str, version: int, arguments: list[np.ndarray | None], attrs: dict[str, Any]) -> Any:
    """Result of an operator that is said by others, such as HardSwish and Gelu."""
    from onnx.reference import ReferenceEvaluator

    feeds = {f"x{place}": value for place, value in enumerate(arguments) if value is not None}
    names = ["" if value is None else f"x{place}" for place, value in enumerate(arguments)]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    body = helper.make_graph([helper.make_node(op, names, ["y"], **attrs)], op, inputs, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid(_DEFAULT_DOMAIN, version)])
    results: Any = ReferenceEvaluator(model).run(None, feeds)
    return results[0]


def _value(tensor: gs.Tensor, values: dict[int, np.ndarray]) -> np.ndarray | None:
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values) if prod(tensor.shape) <= _SMALL else None
    return values.get(id(tensor))
