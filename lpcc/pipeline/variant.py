"""One form of a model on its way through the compiler."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import onnx

from lpcc.analysis.types import annotate
from lpcc.graph import to_proto

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.cost import Cost
    from lpcc.target import Target


class Variant:
    """A graph that no longer changes, with its ONNX form and its cost on a target, each made at most once."""

    def __init__(self, graph: gs.Graph, target: Target) -> None:
        self.graph = graph
        self.target = target

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph as an ONNX model."""
        return to_proto(self.graph)

    @cached_property
    def cost(self) -> Cost:
        """What the target's cost model says of the graph."""
        from lpcc.cost import CostModel

        if any(t.dtype is None or t.shape is None for node in self.graph.nodes for t in node.outputs if t.name):
            annotate(self.graph)
        return CostModel(self.target).estimate(self.graph)
