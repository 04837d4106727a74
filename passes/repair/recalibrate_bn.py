"""`recalibrate-bn`: batch norms remember the statistics of the network as it is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import trains
from lpcc.calibrate.holdout import Feeds, used_and_apart
from lpcc.calibrate.partial import Walk
from lpcc.graph import clone, to_proto
from lpcc.passes.repair.distances import TAKEN_BACK, distances
from lpcc.passes.repair.memory import images_held
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range

Array = np.ndarray[Any, Any]

_IMAGES = 256
_APART = 3
"""One image in so many is kept apart."""


@dataclass(frozen=True)
class RecalibrateBatchNorm(Pass):
    """Give each BatchNormalization the mean and variance that its input has now, on the calibration images.

    A batch norm remembers the statistics that its input had in training (Ioffe and Szegedy 2015, arXiv 1502.03167).
    Pruning, factorising or rounding the layers before it moves these; with the new ones,

        y = gamma (x - E[x]) / sqrt(Var[x] + epsilon) + beta

    has mean beta and deviation gamma again (as Sun et al., Hybrid 8-bit floating point training and inference, 2019).
    The images go through the network once and halt at each batch norm, so each sees what the ones before it give after
    they were re-estimated. As images are few, the new statistics count for the share n / (n + `prior`) over n images,
    the old ones for the rest: mixed as those of one population, with the distance of the means in its variance.

    A third of the images is kept apart. On these the new statistics of a batch norm must describe its input better,
    taken to be normal:

        sum over channels of ln(s + epsilon) + (v + (m - mu)^2) / (s + epsilon)

    falls, with mu and s the mean and variance remembered, m and v those found there. Behind a pass that rounded weights
    the network's outputs on these images must come closer to those of the network before it (`lpcc.quality.noise`), or
    all is taken back. Behind others, or alone, there is no network to come closer to: what the outputs should be, only
    the accuracy budget says, which judges every result.

    Left alone, each with its reason: batch norms in training mode, in bodies of If, Loop and Scan, with statistics that
    are not constants or that other nodes share, with statistics for each position, and those whose input holds numbers
    that are not finite, or on images kept apart is no closer. A network without batch norms, or one whose are folded
    already, has nothing to re-estimate.
    """

    name: ClassVar[str] = "recalibrate-bn"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    prior: Annotated[float, Range(min=0)] = 8.0
    """How many images the old statistics count for."""

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Re-estimate the batch norms of the main graph; see the class."""
        changes = Changes()
        norms = [node for node in graph.nodes if edit.op(node) == "BatchNormalization" and _fits(node, graph, changes)]
        if not norms or ctx.calibration is None:
            changes.refuse(graph.name or "graph", "it has no batch norms to re-estimate")
            return changes
        data = ctx.calibration.head(images_held(graph, _IMAGES))
        used, apart = used_and_apart(data, len(data), len(data) // _APART)
        found = self._estimate(to_proto(graph), norms, [*used, *apart], len(used), ctx, changes)
        if found and ctx.unquantized is not None:
            changed = clone(graph)
            _write(changed, found)
            old, new = distances(ctx.unquantized, (graph, changed), apart)
            if not new.beats(old):
                changes.refuse(graph.name or "graph", TAKEN_BACK)
                return changes
        _write(graph, found)
        for node in norms:
            if node.outputs[0].name in found:
                changes.done(node, "statistics of batch norm re-estimated")
        return changes

    def _estimate(
        self,
        model: onnx.ModelProto,
        norms: Sequence[gs.Node],
        feeds: Feeds,
        used: int,
        ctx: Context,
        changes: Changes,
    ) -> dict[str, tuple[Array, Array]]:
        """New means and variances, by the name of what a norm puts out, from the first `used` feeds; judged by others.

        `model` is changed.
        """
        walk = Walk(model, feeds)
        nodes = {node.output[0]: node for node in model.graph.node if node.op_type == "BatchNormalization"}
        estimated = {}
        for done, node in enumerate(norms):
            ctx.progress("re-estimate batch norms", done, len(norms))
            parts = walk.values(node.inputs[0].name)
            found = self._statistics(node, parts[:used])
            if found is None:
                changes.refuse(node, "its input holds numbers that are not finite")
                continue
            old = (np.asarray(node.inputs[index].values) for index in (3, 4))
            if not _misfit(node, found, parts[used:]) < _misfit(node, tuple(old), parts[used:]):
                changes.refuse(node, "taken back: its input on images kept apart is no closer to the new statistics")
                continue
            name = node.outputs[0].name
            for index, values in zip((3, 4), found, strict=True):
                walk.set_constant(nodes[name].input[index], values)
            estimated[name] = found
        return estimated

    def _statistics(self, node: gs.Node, parts: list[Array]) -> tuple[Array, Array] | None:
        """The new mean and variance (C,), in the types of the old ones."""
        old_mean, old_variance = (np.asarray(node.inputs[index].values) for index in (3, 4))
        images, mean, variance = _moments(parts)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            return None
        share = images / (images + self.prior)
        before = old_mean.astype(np.float64)
        mixed = share * mean + (1 - share) * before
        spread = share * (1 - share) * np.square(mean - before)
        new_variance = share * variance + (1 - share) * old_variance.astype(np.float64) + spread
        return mixed.astype(old_mean.dtype), new_variance.astype(old_variance.dtype)


def _moments(parts: Sequence[Array]) -> tuple[int, Array, Array]:
    """The number of images in (N, C, ...), and mean and variance of each channel (C,)."""
    rows = [part.reshape(*part.shape[:2], -1).astype(np.float64) for part in parts]
    images = sum(len(row) for row in rows)
    mean = np.sum([row.mean(axis=2).sum(axis=0) for row in rows], axis=0) / images
    variance = np.sum([np.square(row - mean[:, None]).mean(axis=2).sum(axis=0) for row in rows], axis=0) / images
    return images, mean, variance


def _misfit(node: gs.Node, statistics: tuple[Array, ...], parts: Sequence[Array]) -> float:
    """How badly statistics describe what a norm reads: its cross entropy as a normal variable, up to constants."""
    _, mean, variance = _moments(parts)
    remembered, spread = (values.astype(np.float64) for values in statistics)
    spread = np.maximum(spread + float(edit.attr(node, "epsilon", 1e-5)), np.finfo(np.float64).tiny)
    return float((np.log(spread) + (variance + np.square(mean - remembered)) / spread).sum())


def _write(graph: gs.Graph, statistics: Mapping[str, tuple[Array, Array]]) -> None:
    """Let batch norms, known by what they put out, have other statistics."""
    with edit.Edit(graph) as e:
        for node in e.nodes:
            if edit.op(node) != "BatchNormalization" or node.outputs[0].name not in statistics:
                continue
            for index, values in zip((3, 4), statistics[node.outputs[0].name], strict=True):
                e.replace_input(node, index, e.constant(f"{node.inputs[index].name}_recalibrated", values))


def _fits(node: gs.Node, graph: gs.Graph, changes: Changes) -> bool:
    """Whether a batch norm can be re-estimated; the reason goes into the changes."""
    statistics = [edit.inp(node, index) for index in (3, 4)]
    reason = None
    if trains(node, graph.opset) or any(edit.out(node, index) is not None for index in range(1, len(node.outputs))):
        reason = "it is in training mode"
    elif not all(isinstance(t, gs.Constant) for t in statistics) or isinstance(node.inputs[0], gs.Constant):
        reason = "its statistics are not constant"
    elif not edit.attr(node, "spatial", 1) or any(len(t.shape) != 1 for t in statistics if t is not None):
        reason = "it has statistics for each position (spatial=0)"
    elif any(len(t.outputs) != 1 for t in statistics if t is not None):
        reason = "its statistics are shared with another node"
    if reason is not None:
        changes.refuse(node, reason)
    return reason is None
