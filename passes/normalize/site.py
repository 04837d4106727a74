"""Where a rule of `remove-noops` looks: one node of a graph under edit, and what is known of shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shape_values import ShapeValues


@dataclass(frozen=True)
class Site:
    """A node, and what its rules need to judge and change it."""

    e: edit.Edit
    node: gs.Node
    found: ShapeValues
    opset: int

    @property
    def x(self) -> gs.Tensor:
        """The node's first input."""
        return self.node.inputs[0]

    @property
    def made_by(self) -> str:
        """Operator that makes the first input; empty for inputs of the graph and constants."""
        producer = self.e.producer(self.x)
        return "" if producer is None or producer.outputs[0] is not self.x else edit.op(producer)

    def maker(self, kind: str) -> gs.Node | None:
        """The node that makes the first input, if it is of that operator."""
        return self.e.producer(self.x) if self.made_by == kind else None

    def keeps_shape(self, tensor: gs.Tensor) -> bool:
        """Whether the node's result has the shape of `tensor` at every run."""
        dims = self.found.dims(tensor)
        return dims is not None and dims == self.found.dims(self.node.outputs[0])

    def is_alone(self) -> bool:
        """Whether nobody reads a result of the node but its first."""
        others = [tensor for tensor in self.node.outputs[1:] if tensor.name]
        return not any(self.e.users(tensor) or self.e.is_output(tensor) for tensor in others)

    def forward(self, tensor: gs.Tensor) -> bool:
        """Let `tensor` stand for the node's result, and drop the node and what served it alone.

        Where both belong to the interface, an Identity between them stays; False if there was nothing else before.
        """
        e, node, result = self.e, self.node, self.node.outputs[0]
        if e.is_output(result) and edit.op(node) == "Identity":
            return e.bypass(node)
        before = e.producer(self.x) if tensor is not self.x else None
        e.remove(node)
        if e.is_output(result):
            e.bypass(e.add("Identity", [tensor], [result], name=node.name))
        else:
            e.replace_uses(result, tensor)
        _prune(e, before)
        return True

    def read_past(self, before: gs.Node) -> None:
        """Let the node read what `before`, the maker of its first input, reads; drop `before` if unused now."""
        self.e.replace_input(self.node, 0, before.inputs[0])
        _prune(self.e, before)


def _prune(e: edit.Edit, node: gs.Node | None) -> None:
    """Drop a node whose results nobody reads any more."""
    if node is None or not e.owns(node) or not e.live(node):
        return
    if not any(e.users(tensor) or e.is_output(tensor) for tensor in node.outputs if tensor.name):
        e.remove(node)


Same = Callable[[Site], "gs.Tensor | None"]
"""The tensor that equals the node's result, None if there is none."""

Rewrite = Callable[[Site], str]
"""Changes the graph and says what was done, in a few words; empty if there was nothing to do."""
