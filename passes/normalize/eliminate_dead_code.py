"""`dce`: what reaches no output of the model goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from lpcc import edit
from lpcc.analysis.purity import is_foreign, trains
from lpcc.pipeline import Changes, Context, Fidelity, Pass


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes that no output depends on, unused optional outputs of nodes and unused initialisers.

    The bodies of If, Loop and Scan are cleaned too, and outputs of an If that nobody reads go from both branches.

    Left alone: inputs of the model, used or not; operators of other domains, which may have effects of their own, and
    what they read; the optional outputs of a batch norm in training mode, which say that it is in that mode.
    """

    name: ClassVar[str] = "dce"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:  # noqa: ARG002
        """Clean the graph and, from inside out, those nested in what stays."""
        changes = Changes()
        _clean(graph, int(graph.opset), changes)
        return changes


def _clean(graph: gs.Graph, opset: int, changes: Changes) -> None:
    returned = {id(tensor) for tensor in graph.outputs}
    for constant in graph.__dict__.get("loose", []):
        if not constant.outputs and id(constant) not in returned:
            changes.done(constant.name, "unused initialiser removed")
    graph.loose = []
    needed = set(returned)
    with edit.Edit(graph) as e:
        for node in reversed(e.nodes):
            if not any(id(tensor) in needed for tensor in node.outputs):
                if not is_foreign(node):
                    changes.done(node, "dead node removed")
                    e.remove(node)
                    continue
                changes.refuse(node, "nobody reads it, but an operator of another domain may have effects")
            _drop_outputs(node, opset, needed, changes)
            for body in edit.subgraphs(node):
                _clean(body, opset, changes)
            needed.update(id(tensor) for tensor in node.inputs if tensor.name)
            needed.update(id(tensor) for tensor in edit.captured(node))


def _drop_outputs(node: gs.Node, opset: int, needed: set[int], changes: Changes) -> None:
    """Drop the outputs of a living node that nobody reads, where the operator allows it."""
    unused = [index for index, tensor in enumerate(node.outputs) if tensor.name and id(tensor) not in needed]
    if not unused or len(unused) == len(node.outputs):
        return
    if edit.op(node) == "If":
        _drop_branch_outputs(node, unused)
        changes.done(node, "unused output of If removed")
        return
    optional = _optional_outputs(edit.op(node), opset)
    unused = [index for index in unused if index in optional]
    if not unused or (edit.op(node) == "BatchNormalization" and trains(node, opset)):
        return
    for index in unused:
        list.clear(node.outputs[index].inputs)
        list.__setitem__(node.outputs, index, gs.Variable.empty())
    while node.outputs and not node.outputs[-1].name:
        list.pop(node.outputs)
    changes.done(node, "unused optional output removed")


def _drop_branch_outputs(node: gs.Node, unused: list[int]) -> None:
    for index in reversed(unused):
        list.clear(node.outputs[index].inputs)
        list.pop(node.outputs, index)
        for body in edit.subgraphs(node):
            del body.outputs[index]


@cache
def _optional_outputs(kind: str, opset: int) -> frozenset[int]:
    """Positions of the outputs that an operator lets its user leave out."""
    try:
        schema = onnx.defs.get_schema(kind, opset, "")
    except onnx.defs.SchemaError:
        return frozenset()
    optional = OpSchema.FormalParameterOption.Optional
    return frozenset(index for index, output in enumerate(schema.outputs) if output.option == optional)
