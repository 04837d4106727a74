"""`recalibrate-bn`: batch norms remember the statistics of the network as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.purity import trains
from lpcc.calibrate.holdout import used_and_apart
from lpcc.calibrate.partial import Walk
from lpcc.graph import to_proto
from lpcc.passes.repair.memory import images_held
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range

Array = np.ndarray[Any, Any]

_IMAGES = 256


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

    Left alone, each with its reason: batch norms in training mode, in bodies of If, Loop and Scan, with statistics that
    are not constants or that other nodes share, with statistics for each position, and those whose input holds numbers
    that are not finite. A network without batch norms, or one whose are folded already, has nothing to re-estimate.
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
        feeds, _ = used_and_apart(ctx.calibration, images_held(graph, _IMAGES), 0)
        model = to_proto(graph)
        walk = Walk(model, feeds)
        nodes = {node.output[0]: node for node in model.graph.node if node.op_type == "BatchNormalization"}
        with edit.Edit(graph) as e:
            for done, node in enumerate(norms):
                ctx.progress("re-estimate batch norms", done, len(norms))
                found = self._statistics(node, walk.values(node.inputs[0].name))
                if found is None:
                    changes.refuse(node, "its input holds numbers that are not finite")
                    continue
                proto = nodes[node.outputs[0].name]
                for index, values in zip((3, 4), found, strict=True):
                    walk.set_constant(proto.input[index], values)
                    old = node.inputs[index]
                    e.replace_input(node, index, e.constant(f"{old.name}_recalibrated", values))
                changes.done(node, "statistics of batch norm re-estimated")
        return changes

    def _statistics(self, node: gs.Node, parts: list[Array]) -> tuple[Array, Array] | None:
        """The new mean and variance (C,), in the types of the old ones."""
        old_mean, old_variance = (np.asarray(node.inputs[index].values) for index in (3, 4))
        rows = [part.reshape(*part.shape[:2], -1).astype(np.float64) for part in parts]
        images = sum(len(row) for row in rows)
        mean = sum(row.mean(axis=2).sum(axis=0) for row in rows) / images
        variance = sum(np.square(row - mean[:, None]).mean(axis=2).sum(axis=0) for row in rows) / images
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            return None
        share = images / (images + self.prior)
        before = old_mean.astype(np.float64)
        mixed = share * mean + (1 - share) * before
        spread = share * (1 - share) * np.square(mean - before)
        new_variance = share * variance + (1 - share) * old_variance.astype(np.float64) + spread
        return mixed.astype(old_mean.dtype), new_variance.astype(old_variance.dtype)


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
