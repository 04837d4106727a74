"""Removal of channels and the repair of what is left, judged on images that it did not see."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.data import Dataset
from lpcc.graph import clone
from lpcc.passes.prune.removal import remove
from lpcc.passes.prune.repair import readings, refit_biases, refit_layers, refit_readers
from lpcc.passes.reconstruct import by_result, sums_of
from lpcc.passes.reconstruct.apart import BATCH, closest, images_apart, images_used
from lpcc.passes.repair.memory import images_held
from lpcc.passes.repair.recalibrate_bn import RecalibrateBatchNorm
from lpcc.pipeline import Changes, Context

Array = np.ndarray[Any, Any]

Repair = Literal["layerwise", "local", "bias", "none"]
"""All layers in order; those that lost an input, each by itself; their biases alone; nothing."""

_WALK_BYTES = 1 << 29
"""Memory for what two networks are waiting with between two layers, for all images."""


def images_measured(data: Dataset, most: int, repair: Repair) -> Dataset:
    """The images to measure on, of the first `most`: all but those that ``layerwise`` keeps apart to judge by."""
    return images_used(data, most) if repair == "layerwise" else data.head(min(len(data), most))


def prune(
    graph: gs.Graph,
    found: ChannelGroups,
    channels: Array,
    repair: Repair,
    ctx: Context,
    images: int,
    changes: Changes,
) -> None:
    """Remove `channels` from `graph`, in place, and repair what is left.

    ``layerwise`` is done where it brings the outputs closer to those of the network before than ``local`` does, on
    images that are kept apart: a fifth, 200 at most; of fewer than 5 images, on the same ones. So are batch norms
    re-estimated after it.

    Raises:
        ModelError: onnxruntime cannot run the network.
        DataError: a sample turns out to be wrong.
    """
    if repair == "none" or ctx.calibration is None:
        remove(graph, found, channels)
        return
    original = clone(graph)
    layers = readings(original, found)
    data = ctx.calibration
    used = images_measured(data, images, repair)
    sums = sums_of(original, [layer for layer, _ in layers.values()], used, ctx)
    remove(graph, found, channels)
    if repair == "bias":
        for name in refit_biases(graph, found, channels, layers, sums):
            changes.done(name, "bias made up for means")
        return
    ways = [_Way(graph, "refitted", refit_readers(graph, found, channels, layers, sums))]
    if repair == "layerwise":
        trial = clone(graph)
        batches = list(used.head(images_held(original, len(used), _WALK_BYTES)).batches(BATCH))
        ways.append(_Way(trial, "refitted in order", refit_layers(original, trial, found, channels, batches, ctx)))
        if any(edit.op(node) == "BatchNormalization" for node in graph.nodes):
            recalibrated = clone(trial)
            norms = _recalibrated(recalibrated, used, ctx)
            ways.append(_Way(recalibrated, "refitted in order", [*ways[-1].layers, *norms]))
    best = ways[0]
    if len(ways) > 1:
        best = ways[closest(original, [way.graph for way in ways], images_apart(data, used, images))]
    if best.graph is not graph:
        _adopt(graph, best)
    for name in best.layers:
        changes.done(name, best.what)


class _Way:
    """A graph whose channels went, repaired in one way."""

    def __init__(self, graph: gs.Graph, what: str, layers: list[str]) -> None:
        self.graph = graph
        self.what = what
        self.layers = layers


def _recalibrated(graph: gs.Graph, data: Dataset, ctx: Context) -> list[str]:
    """Re-estimate the batch norms of a graph; the names of those that changed."""
    own = Context(calibration=data, seed=ctx.seed, progress=ctx.progress)
    return [rewrite.node for rewrite in RecalibrateBatchNorm().run(graph, own).rewrites]


def _adopt(graph: gs.Graph, way: _Way) -> None:
    """Give nodes of `graph` the constants that they have in a repaired clone of it."""
    wanted = by_result(way.graph)
    names = frozenset(way.layers)
    with edit.Edit(graph) as e:
        for node in e.nodes:
            if edit.label(node) in names:
                _take(e, node, wanted[node.outputs[0].name])


def _take(e: edit.Edit, node: gs.Node, other: gs.Node) -> None:
    node.attrs = dict(other.attrs)
    for place, tensor in enumerate(other.inputs):
        mine = edit.inp(node, place)
        if not isinstance(tensor, gs.Constant) or (isinstance(mine, gs.Constant) and mine.values is tensor.values):
            continue
        same = mine is not None and mine.name == tensor.name
        new = gs.Constant(tensor.name, tensor.values) if same else e.constant(tensor.name, tensor.values)
        e.replace_input(node, place, new)
