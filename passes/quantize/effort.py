"""How much work it is to run a network, or what lies behind one of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind

_WRITTEN = 32
"""Multiply-accumulates in the time that it takes to write a number: with this, all networks of the zoo do 15 to 30 a
nanosecond on two cores that others use too; without, 5 to 20."""


@dataclass(frozen=True)
class Effort:
    """Work for one image: of multiply-accumulates alone, and of all, with what is written counted by its time."""

    macs: int
    work: int
    behind: Mapping[str, int]
    """By name of a tensor, the work of all nodes that come after the one that makes it."""

    @classmethod
    def of(cls, graph: gs.Graph) -> Effort:
        """The effort of running an annotated graph."""
        shapes = bind(graph)
        products = macs(graph, shapes)
        work, behind = 0, dict[str, int]()
        for node in reversed(graph.nodes):
            behind.update((tensor.name, work) for tensor in node.outputs)
            work += products.get(id(node), 0) + _WRITTEN * sum(shapes.elements(tensor) for tensor in node.outputs)
        return cls(sum(products.values()), work, behind)

    def after(self, tensors: Iterable[str]) -> int:
        """Work of what comes after the first of some tensors."""
        return max((self.behind.get(name, self.work) for name in tensors), default=self.work)
