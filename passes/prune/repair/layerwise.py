"""All layers of a pruned network refitted in order, each by what the layers before it make now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.calibrate.patches import NoPatches
from lpcc.data import Batch
from lpcc.errors import ModelError
from lpcc.passes.normalize.linear import LINEAR
from lpcc.passes.reconstruct import InOrder, Reading, behind, by_result
from lpcc.pipeline import Context


def refit_layers(
    original: gs.Graph,
    graph: gs.Graph,
    found: ChannelGroups,
    channels: Collection[int],
    batches: Sequence[Batch],
    ctx: Context,
) -> list[str]:
    """Refit the layers of `graph`, which is `original` without `channels`, in order; the names of those refitted.

    See `lpcc.passes.reconstruct.in_order`. The images of `batches` go through both networks once. Left as they are:
    layers whose weights are shared or not constant, those too wide for the sums, those that read or make numbers that
    are not finite or a tensor whose first axis does not count the images, those that onnxruntime cannot halt at (a
    sequence of tensors is waiting there), and those whose fit is too large for the type of the weights.
    """
    kept = found.kept(channels)
    nodes = by_result(graph)
    changed = behind(original, kept)
    pairs = [
        (node, nodes[node.outputs[0].name])
        for node in original.nodes
        if edit.op(node) in LINEAR and node.inputs[0].name in changed
    ]
    walk = InOrder(original, graph, batches, [node for _, node in pairs], kept)
    refitted = []
    for done, (before, node) in enumerate(pairs):
        ctx.progress("refit layers", done, len(pairs))
        walk.reached(node)
        try:
            walk.refit(Reading.of(before), Reading.of(node))
        except (NoPatches, ModelError):
            continue
        refitted.append(edit.label(node))
    ctx.progress("refit layers", len(pairs), len(pairs))
    return refitted
