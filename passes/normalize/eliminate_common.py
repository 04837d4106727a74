"""`cse`: what is computed twice is computed once, and equal constants are kept once."""

from __future__ import annotations

import hashlib
from collections import ChainMap, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import is_pure
from lpcc.door.exporter import owned_constants
from lpcc.door.lazy import Lazy, Sparse
from lpcc.pipeline import Changes, Context, Fidelity, Pass

_COMMUTATIVE: Final = frozenset(("Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"))

Nodes = ChainMap[Hashable, gs.Node]
Constants = ChainMap[tuple[Hashable, Hashable], gs.Constant]


@dataclass(frozen=True)
class EliminateCommon(Pass):
    """Merge nodes that compute the same, and constants that are the same (common subexpression elimination).

    Nodes are the same if operator, inputs and attributes are; constants if type and bytes are.
    A node in a subgraph may be merged into one of a graph around it, never the reverse. Where both twins make a graph
    output, the later one becomes an Identity, so that both names stay.

    Left alone: random operators, Dropout and batch norm in training mode, operators of other domains, nodes that hold
    subgraphs, and twins of which more than one result is a graph output.
    """

    name: ClassVar[str] = "cse"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:  # noqa: ARG002
        """Merge the constants first, then the nodes, in order, so that what hangs on merged nodes merges too."""
        changes = Changes()
        _merge_constants(graph, owned_constants(graph), ChainMap(), changes)
        _merge_nodes(graph, ChainMap(), int(graph.opset), changes)
        return changes


def _merge_constants(
    graph: gs.Graph, owned: Mapping[int, Iterable[gs.Constant]], known: Constants, changes: Changes
) -> None:
    """Merge the constants that a graph declares with one another and with those of the graphs around it."""
    outside = any(known.maps)
    returned = {id(tensor) for tensor in graph.outputs}
    candidates = [c for c in owned[id(graph)] if id(c) not in returned and not isinstance(c._values, Sparse)]
    alike: dict[Hashable, list[gs.Constant]] = defaultdict(list)
    for constant in candidates:
        alike[_kind(constant)].append(constant)
    nested = any(edit.subgraphs(node) for node in graph.nodes)
    with edit.Edit(graph) as e:
        for kind, constants in alike.items():
            if len(constants) == 1 and not nested and not outside:
                continue  # nothing to compare it with: its bytes need not be read
            for constant in constants:
                twin = known.setdefault((kind, _content(constant)), constant)
                if twin is not constant:
                    e.replace_uses(constant, twin)
                    changes.done(constant.name, "equal constants merged")
    for node in graph.nodes:
        for body in edit.subgraphs(node):
            _merge_constants(body, owned, known.new_child(), changes)


def _kind(constant: gs.Constant) -> Hashable:
    return (str(constant.dtype), tuple(constant.shape))


def _content(constant: gs.Constant) -> Hashable:
    """Digest of the values, without turning values not yet read into an array that stays."""
    values = constant._values
    if isinstance(values, Lazy):
        if values.tensor.HasField("raw_data"):
            return hashlib.blake2b(values.tensor.raw_data).digest()
        values = values.load()
    if values.dtype == object:
        return tuple(values.reshape(-1).tolist())
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes()).digest()


def _merge_nodes(graph: gs.Graph, known: Nodes, opset: int, changes: Changes) -> None:
    with edit.Edit(graph) as e:
        own = {id(node) for node in e.nodes}
        for node in e.nodes:
            if edit.subgraphs(node) or not is_pure(node, opset) or _only_names(e, node):
                continue
            key, name = _signature(node), edit.label(node)
            twin = known.setdefault(key, node)
            if twin is not node and not _merge(e, twin, node, own, known, key):
                changes.refuse(name, f"equals `{edit.label(twin)}`, but the model returns results of both")
            elif twin is not node:
                changes.done(name, "common subexpression merged")
    for node in graph.nodes:
        for body in edit.subgraphs(node):
            _merge_nodes(body, known.new_child(), opset, changes)
    edit.sort(graph)  # a node may now be read by a subgraph that stands before it


def _only_names(e: edit.Edit, node: gs.Node) -> bool:
    """Whether a node is there to give a graph output its name."""
    return edit.op(node) == "Identity" and e.is_output(node.outputs[0])


def _merge(e: edit.Edit, twin: gs.Node, node: gs.Node, own: set[int], known: Nodes, key: Hashable) -> bool:
    """Let `twin` stand for `node`, or the reverse; False where the graph returns too many results of both."""
    returned = [index for index, tensor in enumerate(node.outputs) if e.is_output(tensor)]
    if returned and id(twin) in own and not any(e.is_output(tensor) for tensor in twin.outputs):
        twin, node = node, twin
        known[key] = twin
        returned = []
    if len(returned) > 1:
        return False
    pairs = list(zip(node.outputs, twin.outputs, strict=True))
    e.remove(node)
    for index, (old, new) in enumerate(pairs):
        if not old.name:
            continue
        e.replace_uses(old, new)
        if index in returned:
            e.add("Identity", [new], [old], name=node.name)
    return True


def _signature(node: gs.Node) -> Hashable:
    """What two nodes have in common if they compute the same. Omitted inputs and outputs count by their places."""
    inputs = [id(tensor) if tensor.name else 0 for tensor in node.inputs]
    while inputs and not inputs[-1]:
        inputs.pop()
    kind = edit.op(node)
    if kind in _COMMUTATIVE:
        inputs.sort()
    attributes = tuple((name, _attribute(node.attrs[name])) for name in sorted(node.attrs))
    return (kind, tuple(inputs), attributes, tuple(bool(tensor.name) for tensor in node.outputs))


def _attribute(value: Any) -> Hashable:
    if isinstance(value, gs.Constant):
        return (_kind(value), _content(value))
    if isinstance(value, onnx.AttributeProto):
        return bytes(value.SerializeToString(deterministic=True))
    if isinstance(value, (list, tuple)):
        return tuple(_attribute(item) for item in value)
    return (type(value).__name__, repr(value))
