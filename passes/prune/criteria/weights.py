"""Criteria that look at weights alone: no images, no runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.groups import ChannelGroups
from lpcc.match import NoMatch
from lpcc.passes.normalize.linear import LINEAR, Linear
from lpcc.passes.prune.criteria.base import Criterion, averaged, relative, said
from lpcc.passes.reconstruct import by_result
from lpcc.pipeline import Context

Array = np.ndarray[Any, Any]

_BLOCK = 256  # filters whose distances to all others are held at a time


class L1(Criterion):
    """The sum of the magnitudes of the filters that make a channel.

        s_c  =  mean over the layers that make c of  ||F_c||_1 / (mean of ||F||_1 over the layer)

    Li et al., Pruning filters for efficient ConvNets (2017, arXiv 1608.08710). Where one layer makes a channel, that is
    their order. The channels of a residual stream, and those that go through depthwise convolutions, are made by
    several layers, of which none decides alone because its weights are large. Needs nothing but weights that are
    constants of a float type; NaN where no such layer makes a channel, as behind DequantizeLinear.

    It is meant for weights before their batch norms are folded, as `exact` does: a folded filter is also large where
    what it found varied little. On the blocks of ResNet-20 the highest quarter of a layer costs 3.4 times what the
    lowest does before, and 1.6 times after. So it is with `L2` and `GeometricMedian`.

    Raises UsageError where that is so of all that could be removed.
    """

    name: ClassVar[str] = "l1"

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:  # noqa: ARG002
        """A score for each channel, float64 (found.count,), in units of the average filter of its layers."""
        return _of_filters(self.name, graph, found, lambda filters: np.abs(filters).sum(axis=2))


class L2(Criterion):
    """The length of the filters that make a channel, as `L1` but with ``||F_c||_2``.

    Li et al. (2017, arXiv 1608.08710) name it as the alternative; He et al., Soft filter pruning (2018, arXiv
    1808.06866), use it.

    Raises UsageError where no layer whose weights are constants makes a channel that could be removed.
    """

    name: ClassVar[str] = "l2"

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:  # noqa: ARG002
        """A score for each channel, float64 (found.count,), in units of the average filter of its layers."""
        return _of_filters(self.name, graph, found, lambda filters: np.sqrt(np.square(filters).sum(axis=2)))


class GeometricMedian(Criterion):
    """How far a filter is from the others of its layer: what is near to all of them they can say without it.

        s_c  =  mean over the layers that make c of  d_c / (mean of d over the layer),   d_c = sum_j ||F_c - F_j||_2

    He et al., Filter pruning via geometric median (2019, arXiv 1811.00250). Filters of a convolution in groups are
    compared within their group, with which they share what they read. So the filters of a depthwise convolution say
    nothing: each reads another channel. NaN where no other layer with constant float weights makes a channel.

    Raises UsageError where that is so of all that could be removed.
    """

    name: ClassVar[str] = "geometric-median"

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:  # noqa: ARG002
        """A score for each channel, float64 (found.count,), in units of the average of its layers."""
        return _of_filters(self.name, graph, found, lambda filters: np.stack([_distances(group) for group in filters]))


class BatchNormScale(Criterion):
    """The scale of the batch norms that a channel stands in, before or after a layer.

        s_c  =  mean over these batch norms of |gamma_c|

    Liu et al., Learning efficient convolutional networks through network slimming (2017, arXiv 1708.06519), who compare
    the scales of all layers as they are, and train with a penalty on them; without it they say less. NaN for channels
    without a batch norm.

    Raises UsageError where no channel that could be removed has one, as after `exact`, which folds them into weights.
    """

    name: ClassVar[str] = "bn-scale"
    comparable: ClassVar[bool] = True

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:  # noqa: ARG002
        """A score for each channel, float64 (found.count,)."""
        parts = []
        for node in graph.nodes:
            gamma = edit.const(edit.inp(node, 1)) if edit.op(node) == "BatchNormalization" else None
            line = channel_line(found, node.outputs[0].name)
            if gamma is not None and line is not None and len(line) == len(gamma):
                parts.append((line, np.abs(gamma.astype(np.float64))))
        return said(
            averaged(parts, found),
            found,
            "criterion `bn-scale` needs batch norms on channels that can be removed, and there is none; "
            "prune before `exact` or `fold-bn`, which fold them into weights, or choose another, such as `l1`",
        )


def unpacked(node: gs.Node) -> Array | None:
    """Constant float weights of a layer as (groups, outputs of one, inputs of one, positions), float64; else None."""
    if edit.op(node) not in LINEAR:
        return None
    try:
        return Linear.of(node).unpack()
    except NoMatch:
        return None


def channel_line(found: ChannelGroups, name: str) -> Array | None:
    """The channel at each place of axis 1 of a tensor; None where that has none."""
    axes = found.labels.get(name, ())
    return axes[1] if len(axes) > 1 else None


def _of_filters(name: str, graph: gs.Graph, found: ChannelGroups, number: Callable[[Array], Array]) -> Array:
    """What `number` says of filters, (groups, outputs, weights) to (groups, outputs), for the channels they make."""
    nodes = by_result(graph)
    parts = []
    for layer in found.layers:
        weights = None if layer.makes is None else unpacked(nodes[layer.output])
        if layer.makes is None or weights is None or len(layer.makes) != weights.shape[0] * weights.shape[1]:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            numbers = number(weights.reshape(*weights.shape[:2], -1))
        parts.append((layer.makes, relative(numbers.reshape(-1))))
    return said(
        averaged(parts, found),
        found,
        f"criterion `{name}`: no layer that makes channels that can go has constant float weights: choose another "
        "criterion, such as `reconstruction`",
    )


def _distances(filters: Array) -> Array:
    """The sum of the distances of each filter (M, n) to the others, (M,); NaN for one that is alone."""
    if len(filters) < 2:
        return np.full(len(filters), np.nan)
    filters = filters - filters.mean(axis=0)  # closer to zero, less is lost in what follows
    squares = np.square(filters).sum(axis=1)
    sums = []
    for start in range(0, len(filters), _BLOCK):
        block = slice(start, start + _BLOCK)
        between = squares[block, None] + squares - 2 * filters[block] @ filters.T
        sums.append(np.sqrt(np.maximum(between, 0)).sum(axis=1))
    return np.concatenate(sums)
