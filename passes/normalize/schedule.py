"""`schedule`: nodes stand in the order that needs the least memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.memory import Memory, memory
from lpcc.analysis.purity import is_pure
from lpcc.analysis.runtimes import runtime_of
from lpcc.analysis.schedule import search
from lpcc.analysis.shapes import bind
from lpcc.pipeline import Changes, Context, Fidelity, Pass, Range


@dataclass(frozen=True)
class Schedule(Pass):
    """Put the nodes into the order in which the target's runtime needs the least memory for activations.

    Runtimes for microcontrollers keep the order of the file, and that decides what is alive at once. What is computed
    stays the same (Liberis and Lane 2019, "Neural networks on microcontrollers: saving memory at inference via operator
    reordering"). The order is the best one where single tensors cut the network into parts of some tens of kernels, and
    a good one elsewhere. `effort` is how many steps the search may try.

    Leaves the graph alone where it finds no order with a lower peak, where another order would change what the runtime
    fuses, and where order may have a meaning: with random operators, operators of other domains and nested graphs.
    Without a target it looks at onnxruntime's kernels.
    """

    name: ClassVar[str] = "schedule"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    effort: Annotated[int, Range(min=0)] = 200_000

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Order the nodes of the main graph anew."""
        changes = Changes()
        for node in graph.nodes:
            if edit.subgraphs(node) or not is_pure(node, int(graph.opset)):
                changes.refuse(node, "when it runs may have a meaning: the order of all nodes stays")
                return changes
        before = _memory(graph, ctx)
        found = search(before.program, self.effort)
        if found.peak >= before.peak_bytes:
            return changes
        kept = list(graph.nodes)
        graph.nodes[:] = _ordered(kept, [before.steps[number] for number in found.order])
        after = _memory(graph, ctx)
        if after.peak_bytes >= before.peak_bytes or _work(after) != _work(before):
            graph.nodes[:] = kept
            changes.refuse(
                before.peak.node if before.peak else "", "in a better order the runtime would fuse other nodes"
            )
            return changes
        for node in (new for old, new in zip(kept, graph.nodes, strict=True) if old is not new):
            changes.done(node, "node moved to where less memory is in use")
        return changes


def _memory(graph: gs.Graph, ctx: Context) -> Memory:
    shapes = bind(graph)
    name, isa = ("onnxruntime", ()) if ctx.target is None else (ctx.target.runtime, ctx.target.isa)
    return memory(graph, shapes, kernels(graph, shapes, name, isa), runtime_of(name, isa))


def _work(used: Memory) -> Counter[tuple[str, str, int, int]]:
    """What is computed, in any order."""
    return Counter((step.kind, step.scheme, step.macs, step.bytes) for step in used.steps)


def _ordered(nodes: Sequence[gs.Node], steps: Sequence[Kernel]) -> list[gs.Node]:
    """The nodes in the order of the kernels that they are part of, each after those that it reads from."""
    places = {id(node): place for place, node in enumerate(nodes)}
    wanted = [node for step in steps for node in sorted(step.nodes, key=lambda n: places.get(id(n), 0))]
    found: dict[int, gs.Node] = {}
    for node in (*wanted, *nodes):
        waiting = [node]
        while waiting:
            last = waiting[-1]
            missing = [
                maker for t in last.inputs for maker in t.inputs if id(maker) in places and id(maker) not in found
            ]
            if missing and id(last) not in found:
                waiting += missing
                continue
            found.setdefault(id(last), waiting.pop())
    return list(found.values())
