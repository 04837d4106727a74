"""`freeze-inputs`: weights that are listed among the graph's inputs become constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.door.exporter import owned_constants
from lpcc.pipeline import Changes, Context, Fidelity, Pass

_IR_WITH_FREE_INITIALIZERS: Final = 4
_WEIGHTS: Final = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "BatchNormalization": (1, 2, 3, 4),
    "PRelu": (1,),
}
"""Inputs of operators that are weights in every network."""


@dataclass(frozen=True)
class FreezeInputs(Pass):
    """Make constants of the initialisers that are listed among the graph's inputs.

    Such an input has a default value that a caller may override, so nothing can be folded into or out of it. Up to IR
    version 3 ONNX asked for every initialiser to be listed, and some exporters still list them all
    (``keep_initializers_as_inputs``); there the listing says nothing and is dropped.

    Left alone, from IR version 4 on: models where only some of the initialisers are listed, and models where none of
    the listed ones is the weight of a layer. There somebody chose the inputs that may be overridden.
    """

    name: ClassVar[str] = "freeze-inputs"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:  # noqa: ARG002
        """Freeze all listed initialisers or none."""
        changes = Changes()
        listed = [tensor for tensor in graph.inputs if getattr(tensor, "default", None) is not None]
        if not listed:
            return changes
        reason = _chosen(graph, listed)
        if reason:
            for tensor in listed:
                changes.refuse(tensor.name, reason)
            return changes
        frozen: set[int] = set()
        with edit.Edit(graph) as e:
            for tensor in listed:
                if not e.settle(tensor, tensor.default._values):
                    changes.refuse(tensor.name, "a nested graph returns it")
                    continue
                frozen.add(id(tensor))
                changes.done(tensor.name, "initialiser listed as an input made a constant")
        graph.inputs[:] = [tensor for tensor in graph.inputs if id(tensor) not in frozen]
        return changes


def _chosen(graph: gs.Graph, listed: Sequence[gs.Variable]) -> str:
    """Why the listed initialisers look like inputs that are meant to be overridden; empty if they do not."""
    if (graph.ir_version or 0) < _IR_WITH_FREE_INITIALIZERS:
        return ""
    if owned_constants(graph)[id(graph)]:
        return "an input with a default value, and not all initialisers are listed: it is meant to be overridden"
    if not any(_is_weight(tensor) for tensor in listed):
        return "an input with a default value, and no weight is listed: it is meant to be overridden"
    return ""


def _is_weight(tensor: gs.Variable) -> bool:
    return any(
        index < len(node.inputs) and node.inputs[index] is tensor
        for node in tensor.outputs
        for index in _WEIGHTS.get(edit.op(node), ())
    )
