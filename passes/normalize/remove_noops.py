"""`remove-noops`: nodes that give back what they get, and pairs of nodes that are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shape_values import ShapeValues, shape_values
from lpcc.passes.normalize import noop_elementwise, noop_layout
from lpcc.passes.normalize.site import Rewrite, Same, Site
from lpcc.pipeline import Changes, Context, Fidelity, Pass

_SAME: Final[dict[str, Same]] = {**noop_elementwise.SAME, **noop_layout.SAME}
_REWRITES: Final[dict[str, Rewrite]] = {**noop_elementwise.REWRITES, **noop_layout.REWRITES}


@dataclass(frozen=True)
class RemoveNoops(Pass):
    """Remove nodes without effect and merge pairs that are one.

    Removed: Identity; Dropout outside training; Cast to the same type, and back from a type that holds all values;
    Transpose, Reshape, Flatten, Squeeze, Unsqueeze, Expand, Slice, Gather and Tile that keep everything in place, and
    pairs that undo each other; Pad of no width; Concat, Sum, Max, Min, Mean of one input, Split into one part; plus 0,
    times 1, divided by 1, to the power of 1; Resize of scale 1; pools over one element, reductions over axes of size 1;
    Relu of what is not negative; double Neg and Not.

    Merged: Transposes in a row; a Reshape of a Reshape, Flatten, Squeeze or Unsqueeze; Relu and Clip in a row.

    Equal within rounding: ``x + 0`` makes +0 of -0, x does not; and a Clip may treat NaN unlike the Relu before it.

    Left alone: what would change a shape by broadcasting or for which that is not proven; a node between an input and
    an output of the model (it becomes an Identity, to keep both names); nodes of which a second result is used; Resize
    with a region of interest; Cast pairs that lose values between.
    """

    name: ClassVar[str] = "remove-noops"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Sweep once over the graph and over those nested in it."""
        changes = Changes()
        if any(edit.op(node) in _SAME for node in edit.nodes(graph)):
            found = ctx.analysis(shape_values, graph)
            for scope in edit.graphs(graph):
                _sweep(scope, found, int(graph.opset), changes)
        return changes


def _sweep(graph: gs.Graph, found: ShapeValues, opset: int, changes: Changes) -> None:
    with edit.Edit(graph) as e:
        for node in e.nodes:
            if edit.op(node) in _SAME and e.live(node) and node.inputs and node.inputs[0].name:
                _simplify(Site(e, node, found, opset), edit.label(node), changes)


def _simplify(site: Site, name: str, changes: Changes) -> None:
    """Apply rules to one node until it is gone or none applies; each that applies drops a node before it."""
    kind = edit.op(site.node)
    rewrite = _REWRITES.get(kind)
    while True:
        same = _SAME[kind](site) if site.is_alone() else None
        if same is not None:
            if site.forward(same):
                changes.done(name, f"{kind} without effect removed")
            else:
                changes.refuse(name, "it gives an output of the model its name")
            return
        what = rewrite(site) if rewrite is not None else ""
        if not what:
            return
        changes.done(name, what)
        if not site.e.live(site.node):
            return
