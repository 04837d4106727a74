"""`raise-opset`: old models come to the opset that the passes and the runtime share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, ClassVar

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from lpcc import edit
from lpcc.analysis.shape_values import ShapeValues, shape_values
from lpcc.door import files
from lpcc.errors import ModelError
from lpcc.graph import clone, to_proto
from lpcc.passes.normalize.opset_steps import CHECKS, HIGHEST, LOWEST, STEPS
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Range


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Raise the opset of ONNX's own operators to `to`, and rewrite the nodes whose operators have changed since.

    The default is 17, the first opset with all that the other passes write: per-channel QuantizeLinear (13), HardSwish
    (14) and LayerNormalization (17). Every runtime of the last years has it.

    Rewritten are, among others, Upsample to Resize, and attributes that became inputs (Clip, Pad, Slice, Squeeze,
    Unsqueeze, ReduceSum, Split, TopK). Softmax over several axes at once (up to opset 12) is written out by Flatten and
    Reshape. Names, metadata, other domains and types stay as they are; nothing is ever lowered.

    Left alone, with all its nodes at the opset that it has: a model below opset 7 or with a node that cannot be
    rewritten, e.g. one whose operator changed in a way that `opset_steps` does not list, a batch norm in training mode,
    a Dropout whose mask is used; and one in which shape inference, which knows more of newer operators, then finds that
    shapes are not as the model states them.
    """

    name: ClassVar[str] = "raise-opset"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    to: Annotated[int, Range(min=LOWEST, max=HIGHEST)] = 17

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:  # noqa: ARG002
        """Check every node of the model, then rewrite all of them or none."""
        changes = Changes()
        start = int(graph.opset)
        if start >= self.to:
            return changes
        if start < LOWEST:
            changes.refuse(graph.name or "graph", f"opset {start} is older than {LOWEST}")
            return changes
        reasons = [(node, _obstacle(node, start, self.to)) for node in edit.nodes(graph)]
        for node, reason in reasons:
            if reason:
                changes.refuse(node, f"the model stays at opset {start}: {reason}")
        if changes.refused:
            return changes
        trial = clone(graph)
        self._raise(trial, Changes())
        try:
            files.check(to_proto(trial), f"at opset {self.to}")
        except ModelError as error:
            changes.refuse(graph.name or "graph", f"the model stays at opset {start}: {error}")
            return changes
        self._raise(graph, changes)
        return changes

    def _raise(self, graph: gs.Graph, changes: Changes) -> None:
        """Rewrite all nodes of a model, in place."""
        start = int(graph.opset)
        needs_shapes = any(edit.op(node) in _OVER_AXES for node in edit.nodes(graph))
        found = shape_values(graph) if needs_shapes else ShapeValues({})
        for scope in edit.graphs(graph):
            with edit.Edit(scope) as e:
                for node in e.nodes:
                    name, kind = edit.label(node), edit.op(node)
                    if _follow(e, node, _steps(kind, start, self.to), found):
                        changes.done(name, f"{kind} rewritten for the new opset")
            scope.opset = self.to
        oldest = helper.find_min_ir_version_for([helper.make_opsetid("", self.to)], ignore_unknown=True)
        graph.ir_version = max(graph.ir_version or 0, oldest)
        changes.done(graph.name or "graph", f"opset raised to {self.to}")


@cache
def _versions(kind: str) -> tuple[int, ...]:
    """Opsets in which an operator of ONNX's own domain changed, in order."""
    return _all_versions().get(kind, ())


@lru_cache(maxsize=1)
def _all_versions() -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, set()).add(schema.since_version)
    return {kind: tuple(sorted(versions)) for kind, versions in found.items()}


def _steps(kind: str, start: int, to: int) -> Iterator[tuple[str, int]]:
    """The operator and version of each change on the way; a change may rename the operator."""
    for version in range(start + 1, to + 1):
        if version in _versions(kind):
            yield kind, version
            kind = _RENAMED.get((kind, version), kind)


_OVER_AXES = ("Softmax", "LogSoftmax", "Hardmax")
_RENAMED = {("Upsample", 10): "Resize", ("Scatter", 11): "ScatterElements"}


def _obstacle(node: gs.Node, start: int, to: int) -> str:
    """Why a node cannot be raised; empty if it can."""
    kind = edit.op(node)
    if "::" in kind:
        return ""
    if not _versions(kind):
        return f"`{kind}` is no operator of ONNX"
    for step in _steps(kind, start, to):
        if step not in STEPS:
            return f"`{step[0]}` changed in opset {step[1]} in a way that lpcc cannot follow"
    before, check = CHECKS.get(kind, (0, None))
    return check(node) if check is not None and start < before <= to else ""


def _follow(e: edit.Edit, node: gs.Node, steps: Iterable[tuple[str, int]], found: ShapeValues) -> bool:
    """Take the steps of one node; whether they changed it."""
    before = (node.op, dict(node.attrs))
    for step in steps:
        STEPS[step](e, node, found)
    return bool((node.op, node.attrs) != before)
