"""Nodes that onnxruntime drops when it loads a model: they do nothing, or what another one does already."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis import rules
from lpcc.analysis.integer import contains
from lpcc.analysis.runtimes.base import Facts
from lpcc.analysis.shapes import constant_of

_ANY_ORDER = frozenset(
    "Relu LeakyRelu Elu Sigmoid Tanh Exp Log Sqrt Neg Abs Erf Clip HardSigmoid HardSwish Softplus Cast Softmax".split()  # noqa: SIM905
)
_SHAPES = frozenset(["Shape", "Gather", "Slice", "Cast", "Unsqueeze", "Squeeze"])
_RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
)


def note_removed(graph: gs.Graph, facts: Facts) -> None:
    """Note in `facts` what is dropped from a graph, without its subgraphs."""
    kept: dict[object, gs.Tensor] = {}
    for node in graph.nodes:
        op = edit.op(node)
        single = len([t for t in node.outputs if t.name]) == 1 and bool(node.inputs)
        if single and _does_nothing(node, op, facts):
            facts.removed[id(node)] = _source(node)
        elif single and op not in _RANDOM and not rules.folds(node, op, facts.folded):
            _note_twin(node, op, facts, kept)
        if op == "Transpose" and id(node) not in facts.removed:
            _note_round_trip(node, facts, _ANY_ORDER if (graph.opset or 0) >= 13 else _ANY_ORDER - {"Softmax"})
        if op == "Reshape":
            _note_sizes(node, facts)


def _note_twin(node: gs.Node, op: str, facts: Facts, kept: dict[object, gs.Tensor]) -> None:
    """Note a node that computes what one before it does."""
    if id(node.outputs[0]) in facts.returned or not all(_is_plain(v) for v in node.attrs.values()):
        return
    attrs = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
    key = (op, attrs, tuple(_key(t, facts) for t in node.inputs))
    twin = kept.setdefault(key, node.outputs[0])
    if twin is not node.outputs[0] and op not in rules.QUANTIZE | rules.DEQUANTIZE:
        facts.removed[id(node)] = twin
        facts.shared.add(id(twin))


def _key(tensor: gs.Tensor, facts: Facts) -> object:
    constant = constant_of(tensor) if facts.constant(tensor) else None
    if constant is not None:
        small = np.prod(constant.shape) <= 8
        return (str(constant.dtype), tuple(constant.shape), constant.values.tobytes()) if small else id(constant)
    maker = tensor.inputs[0] if tensor.inputs else None
    return id(facts.removed.get(id(maker), tensor))


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | bytes) or (
        isinstance(value, list) and all(isinstance(v, int | float | str) for v in value)
    )


def _note_round_trip(first: gs.Node, facts: Facts, indifferent: frozenset[str]) -> None:
    """Note a Transpose and the inverse one after it, if what stands between them does not care."""
    order = list(edit.attr(first, "perm", []))
    node = facts.reader(first.outputs[0])
    while node is not None and edit.op(node) in indifferent and order:
        node = facts.reader(node.outputs[0])
    if node is None or edit.op(node) != "Transpose" or id(first.outputs[0]) in facts.returned:
        return
    back = list(edit.attr(node, "perm", []))
    if len(back) == len(order) and [order[axis] for axis in back] == list(range(len(order))):
        facts.removed[id(first)] = first.inputs[0]
        facts.removed[id(node)] = node.inputs[0]


def _note_sizes(reshape: gs.Node, facts: Facts) -> None:
    """Note small integer operators that only copy sizes of a tensor into the shape of a Reshape."""
    joined = edit.inp(reshape, 1)
    if joined is None or len(joined.inputs) != 1 or edit.op(joined.inputs[0]) != "Concat" or len(joined.outputs) != 1:
        return
    found = [joined.inputs[0]]
    for tensor in joined.inputs[0].inputs:
        while not facts.constant(tensor):
            if len(tensor.inputs) != 1 or len(tensor.outputs) != 1 or edit.op(tensor.inputs[0]) not in _SHAPES:
                return
            found.append(tensor.inputs[0])
            if edit.op(tensor.inputs[0]) == "Shape":
                break
            tensor = tensor.inputs[0].inputs[0]
    facts.done.update(id(node) for node in found)
    facts.folded.update(id(node.outputs[0]) for node in found)


def _source(node: gs.Node) -> gs.Tensor:
    """The tensor that a node which does nothing passes on."""
    if edit.op(node) in ("Add", "Mul") and edit.const(node.inputs[0]) is not None:
        second: gs.Tensor = node.inputs[1]
        return second
    first: gs.Tensor = node.inputs[0]
    return first


def _does_nothing(node: gs.Node, op: str, facts: Facts) -> bool:
    if op == "Identity":
        return True
    if op in ("Relu", "Clip"):
        reader = facts.reader(node.outputs[0])
        return reader is not None and edit.op(reader) in rules.QUANTIZE and contains(reader, node)
    if op == "Dropout":
        return len(node.inputs) < 3 or edit.scalar(node.inputs[2]) == 0
    if op == "Cast":
        first = node.inputs[0]
        return first.dtype is not None and rules.dtype_of(first) == rules.dtype_of(node.outputs[0])
    if op not in ("Expand", "Add", "Sub", "Mul", "Div"):
        return False
    same = facts.shapes.of(_source(node)) == facts.shapes.of(node.outputs[0]) is not None
    if op == "Expand":
        return same and edit.const(node.inputs[1]) is not None
    neutral = 0 if op in ("Add", "Sub") else 1
    candidates = node.inputs[1:] if op in ("Sub", "Div") else node.inputs
    return same and any(_is_scalar(t, neutral) for t in candidates)


def _is_scalar(tensor: gs.Tensor, value: int) -> bool:
    known = _size(tensor) == 1
    found = edit.const(tensor) if known else None
    return found is not None and bool(np.all(found == value))


def _size(tensor: gs.Tensor) -> int:
    """Elements of a constant; 0 for any other tensor."""
    return int(np.prod(tensor.shape)) if isinstance(tensor, gs.Constant) else 0
