"""`fold-constants`: what does not depend on the inputs is computed once, now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import is_pure
from lpcc.analysis.rules import bits
from lpcc.analysis.types import counts_far, weights_to_inputs
from lpcc.door import importer
from lpcc.door.exporter import owned_constants
from lpcc.errors import ModelError
from lpcc.graph import to_proto
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Range

_EVALUABLE: Final = 2**28  # bytes; a larger result is not even computed
_ROUNDS: Final = 8
_SMALL: Final = 8  # numbers
_KEPT: Final = frozenset(("Constant", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate nodes whose inputs are all constants, and take the branch of an If whose condition is a constant.

    onnxruntime evaluates all of them in one run, without its own optimisations, so that the result is what the model
    would have computed. A constant that is a graph output keeps its name.

    Left alone: random operators; operators of other domains; QuantizeLinear and DequantizeLinear, whose constants are
    the small form of the weights; a Cast of more than a few integers of at most 16 bits, for the same reason; Loop and
    Scan; results that are no plain tensors of numbers; what onnxruntime cannot evaluate; results larger than `limit`
    bytes that are also larger than the constants that they replace; and results whose size is not known before they
    are computed.
    """

    name: ClassVar[str] = "fold-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    limit: Annotated[int, Range(min=0)] = 2**20

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:  # noqa: ARG002
        """Fold the graph and those nested in it; again where an If gave way to its branch."""
        changes = Changes()
        for _ in range(_ROUNDS):
            for scope in edit.graphs(graph):
                _fold(scope, graph, self.limit, changes)
            if not sum(_inline_branches(scope, graph, changes) for scope in edit.graphs(graph)):
                break
        return changes


def _fold(graph: gs.Graph, root: gs.Graph, limit: int, changes: Changes) -> None:
    """Fold the nodes of one graph, in rounds: a size may depend on a value that the round before has computed."""
    reasons: dict[int, tuple[gs.Node, str]] = {}
    for _ in range(_ROUNDS):
        candidates = _candidates(graph, int(root.opset))
        if not candidates:
            break
        with edit.Edit(graph) as e:
            reasons = {}
            chosen = _chosen(e, candidates, _Sizes(candidates, root), graph is root, limit, reasons)
            folded = _replace(e, chosen, _evaluate(chosen, _needed(e, chosen), root), changes)
            reasons |= {id(node): (node, "onnxruntime cannot evaluate it") for node in chosen if e.live(node)}
        if not folded or not reasons:
            break
    for node, reason in reasons.values():
        changes.refuse(node, reason)


def _candidates(graph: gs.Graph, opset: int) -> list[gs.Node]:
    """The nodes that depend on constants alone, in order."""
    made: set[int] = set()
    found = []
    for node in graph.nodes:
        inputs = [tensor for tensor in node.inputs if tensor.name]
        if not inputs or not all(isinstance(tensor, gs.Constant) or id(tensor) in made for tensor in inputs):
            continue
        if edit.op(node) in _KEPT or _widens(node) or edit.subgraphs(node) or not is_pure(node, opset):
            continue
        made.update(id(tensor) for tensor in node.outputs)
        found.append(node)
    return found


def _widens(node: gs.Node) -> bool:
    """Whether a node makes integers of 16 bits or fewer wider: the start of what decodes small weights."""
    if edit.op(node) != "Cast" or not isinstance(node.inputs[0], gs.Constant) or prod(node.inputs[0].shape) <= _SMALL:
        return False
    source, result = np.dtype(node.inputs[0].dtype), node.outputs[0].dtype
    return "int" in source.name and bits(source) <= 16 and (result is None or bits(np.dtype(result)) > bits(source))


class _Sizes:
    """Sizes in bytes of the results of nodes, or bounds on them, from shape inference on these nodes alone."""

    def __init__(self, nodes: Sequence[gs.Node], root: gs.Graph) -> None:
        model = _model(nodes, [], root)
        weights_to_inputs(model.graph)
        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=not counts_far(nodes))
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            del model.graph.value_info[:]
        self._found: dict[str, int | None] = {}
        for info in model.graph.value_info:
            if not info.type.HasField("tensor_type"):
                continue
            typed = importer.variable(info)
            shape = [dim for dim in typed.shape or [] if isinstance(dim, int) and dim >= 0]
            if typed.shape is not None and len(shape) == len(typed.shape) and _is_plain(typed.dtype):
                self._found[info.name] = prod(shape) * typed.dtype.itemsize
        for node in nodes:
            if edit.op(node) == "NonZero" and isinstance(node.inputs[0], gs.Constant):
                shape = node.inputs[0].shape  # all of them may be
                self._found[node.outputs[0].name] = prod(shape) * len(shape) * np.dtype(np.int64).itemsize

    def of(self, tensor: gs.Tensor) -> int | None:
        """Bytes of a tensor; None where unknown, or where it holds no numbers."""
        if isinstance(tensor, gs.Constant):
            return int(prod(tensor.shape) * np.dtype(tensor.dtype).itemsize)
        return self._found.get(tensor.name)


def _is_plain(dtype: Any) -> bool:
    """Whether onnxruntime gives a result of the type as it is: NumPy's own numbers, not those of ml_dtypes."""
    return dtype is not None and dtype.kind in "biuf" and dtype.isbuiltin == 1


def _chosen(
    e: edit.Edit,
    candidates: Sequence[gs.Node],
    sizes: _Sizes,
    outermost: bool,
    limit: int,
    reasons: dict[int, tuple[gs.Node, str]],
) -> list[gs.Node]:
    """The candidates that are worth folding, in order; `reasons` is told of the others."""
    feasible: dict[int, gs.Node] = {}
    made: set[int] = set()
    for node in candidates:
        results = [sizes.of(tensor) for tensor in node.outputs if tensor.name]
        if not all(isinstance(tensor, gs.Constant) or id(tensor) in made for tensor in node.inputs if tensor.name):
            continue
        if any(size is None for size in results):
            reasons[id(node)] = (node, "the size of its result is not known before it is computed")
        elif any(size is not None and size > _EVALUABLE for size in results):
            reasons[id(node)] = (node, f"its result takes more than {_EVALUABLE} bytes")
        else:
            feasible[id(node)] = node
            made.update(id(tensor) for tensor in node.outputs)
    replaced = _replaced(e, list(feasible.values()), sizes)
    for node in reversed(list(feasible.values())):
        needed = [t for t in node.outputs if e.is_output(t) or any(id(user) not in feasible for user in e.users(t))]
        largest = max((sizes.of(tensor) or 0 for tensor in needed), default=0)
        if largest > limit and largest > replaced[id(node)]:
            reasons[id(node)] = (node, f"its result takes {largest} bytes, more than the limit and what it replaces")
            del feasible[id(node)]
        elif not outermost and any(e.is_output(tensor) for tensor in node.outputs):
            del feasible[id(node)]  # a subgraph must return what one of its nodes makes
    return list(feasible.values())


def _replaced(e: edit.Edit, nodes: Sequence[gs.Node], sizes: _Sizes) -> dict[int, int]:
    """For each node, by id, the bytes of the constants that only it and the nodes before it read."""
    behind: dict[int, int] = {}
    found = {}
    for node in nodes:
        alone = [t for t in node.inputs if t.name and len(e.users(t)) == 1 and not e.is_output(t)]
        total = sum(sizes.of(t) or 0 if isinstance(t, gs.Constant) else behind[id(t)] for t in alone)
        found[id(node)] = total
        behind.update((id(tensor), total // len(node.outputs)) for tensor in node.outputs)
    return found


def _needed(e: edit.Edit, nodes: Sequence[gs.Node]) -> list[gs.Tensor]:
    """Results of `nodes` that others read or the graph returns."""
    inside = {id(node) for node in nodes}
    results = [tensor for node in nodes for tensor in node.outputs if tensor.name]
    return [t for t in results if e.is_output(t) or any(id(user) not in inside for user in e.users(t))]


def _model(nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor], root: gs.Graph) -> onnx.ModelProto:
    """A model of copies of `nodes`, whose other inputs are constants."""
    copies: dict[int, gs.Tensor] = {}

    def copy(tensor: gs.Tensor) -> gs.Tensor:
        if not tensor.name:
            return gs.Variable.empty()
        if id(tensor) not in copies:
            constant = isinstance(tensor, gs.Constant)
            copies[id(tensor)] = gs.Constant(tensor.name, tensor._values) if constant else gs.Variable(tensor.name)
        return copies[id(tensor)]

    made = []
    for node in nodes:
        twin = gs.Node(op=node.op, name=node.name, attrs=dict(node.attrs), domain=node.domain)
        if hasattr(node, "carried"):
            twin.carried = node.carried
        made.append(edit.link(twin, [copy(t) for t in node.inputs], [copy(t) for t in node.outputs]))
    graph = gs.Graph(nodes=made, outputs=[copy(t) for t in outputs], opset=root.opset, name="constants")
    graph.import_domains = root.import_domains
    graph.ir_version = max(root.ir_version or 0, 4)
    return to_proto(graph)


def _evaluate(nodes: Sequence[gs.Node], needed: Sequence[gs.Tensor], root: gs.Graph) -> dict[int, np.ndarray]:
    """Values of the needed tensors by id, in one run, else by halves; those that fail are left out."""
    from lpcc.runtime import Session

    if not needed:
        return {}
    names = [tensor.name for tensor in needed]
    try:
        results: Mapping[str, Any] = Session(_model(nodes, needed, root), optimise=False).run({}, names)
    except ModelError:
        return _halves(nodes, needed, root)
    return {id(tensor): results[tensor.name] for tensor in needed}


def _halves(nodes: Sequence[gs.Node], needed: Sequence[gs.Tensor], root: gs.Graph) -> dict[int, np.ndarray]:
    """Values of what the first half of the nodes makes, and of what the second half makes on its own.

    What the second half makes of the first is left to the next round, when the first half's results are constants.
    """
    if len(nodes) == 1:
        return {}
    first, second = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
    tensors = [tensor for node in first for tensor in node.outputs if tensor.name]
    made = {id(tensor) for tensor in tensors}
    read = {id(tensor) for node in second for tensor in node.inputs} | {id(tensor) for tensor in needed}
    values = _evaluate(first, [tensor for tensor in tensors if id(tensor) in read], root)
    alone = []
    for node in second:
        if any(id(tensor) in made for tensor in node.inputs):
            made.update(id(tensor) for tensor in node.outputs)
        else:
            alone.append(node)
    return values | _evaluate(alone, [tensor for tensor in needed if id(tensor) not in made], root)


def _replace(e: edit.Edit, nodes: Sequence[gs.Node], values: Mapping[int, np.ndarray], changes: Changes) -> int:
    """Put the values in the place of the nodes that made them; how many nodes went."""
    count = 0
    for node in reversed(nodes):
        outputs = [tensor for tensor in node.outputs if tensor.name]
        if any((e.users(t) or e.is_output(t)) and id(t) not in values for t in outputs):
            continue
        settled = [e.settle(t, np.asarray(values[id(t)])) for t in outputs if e.users(t) or e.is_output(t)]
        if all(settled):
            changes.done(node, "constant expression evaluated")
            e.remove(node)
            count += 1
    return count


def _inline_branches(graph: gs.Graph, root: gs.Graph, changes: Changes) -> int:
    """Replace each If whose condition is a constant by the nodes of the branch that it takes; how many there were."""
    constant = [n for n in graph.nodes if edit.op(n) == "If" and edit.scalar(edit.inp(n, 0)) is not None]
    if not constant:
        return 0
    owned = owned_constants(root)
    with edit.Edit(graph) as e:
        for node in constant:
            body = node.attrs["then_branch" if edit.scalar(node.inputs[0]) else "else_branch"]
            moved, results, outputs = list(body.nodes), list(body.outputs), list(node.outputs)
            body.nodes.clear()
            made = [tensor for child in moved for tensor in child.outputs if tensor.name]
            for tensor in [*made, *owned[id(body)]]:
                tensor.name = e.fresh(tensor.name).name  # the other branches of the model may use the name, too
            changes.done(node, "If of a constant condition replaced by its branch")
            e.remove(node)
            for child in moved:
                e.adopt(child)
            for result, output in zip(results, outputs, strict=True):
                if output.name:
                    e.add("Identity", [result], [output], name=node.name)
    return len(constant)
