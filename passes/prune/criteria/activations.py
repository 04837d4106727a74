"""Criteria that look at what channels hold on images, in the tensors that layers read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups
from lpcc.calibrate.channels import measure_channels, nonzero_shares
from lpcc.errors import UsageError
from lpcc.graph import to_proto
from lpcc.passes.prune.criteria.base import Criterion, averaged, relative, said
from lpcc.pipeline import Context, Need

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset

Array = np.ndarray[Any, Any]

_IMAGES: Final = 256
"""How many images are looked at: the statistics of whole channels move little beyond."""


class ZeroShare(Criterion):
    """The share of a channel's activations that are not zero, over all places of all images.

        s_c  =  mean over the tensors X that layers read of  1 - APoZ(X_c),   APoZ(X_c) = mean of [X_c = 0]

    Hu et al., Network trimming (2016, arXiv 1607.03250), with APoZ the average percentage of zeros: behind its
    activation, which is where layers read it. In a tensor without an activation that gives zeros, such as a sum before
    the next block, all channels score 1. Needs calibration images, of which it takes up to 256, and float32 tensors;
    NaN for channels that no layer sums over.

    Raises UsageError without images, where no tensor can be measured, and where no channel that could be removed is
    ever zero, as with SiLU or GELU.
    """

    name: ClassVar[str] = "apoz"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:
        """A score for each channel, float64 (found.count,), from 0 to 1."""
        reads, model = _measured(graph, found)
        shares = nonzero_shares(model, reads, _images(self, ctx), _reported(self, ctx))
        scores = averaged(((reads[name], share) for name, share in shares.items()), found)
        said(scores, found, f"criterion `{self.name}` finds no float32 tensor of removable channels that layers read")
        if found.free.any() and np.nanmin(scores[found.free]) == 1:
            raise UsageError("criterion `apoz` finds no activation that is ever zero; choose another, such as `energy`")
        return scores


class Energy(Criterion):
    """The variance of a channel's activations, over all places of all images.

        s_c  =  mean over the tensors X that layers read of  var(X_c) / (mean of var over the channels of X)

    Polyak and Wolf, Channel-level acceleration of deep face representations (IEEE Access 3, 2015), eliminate channels
    that are little active. It is the variance here, not the mean square: what is constant, biases can say. It is
    measured where layers read the channel, behind its activation; tensors differ in scale, so in units of theirs. Needs
    calibration images, of which it takes up to 256, and float32 tensors; NaN for channels that no layer sums over.

    Raises UsageError without images, and where no tensor can be measured.
    """

    name: ClassVar[str] = "energy"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:
        """A score for each channel, float64 (found.count,), in units of the average channel of its tensors."""
        reads, model = _measured(graph, found)
        channels = measure_channels(model, reads, _images(self, ctx), _reported(self, ctx))
        parts = ((reads[name], relative(statistics.variance)) for name, statistics in channels.items())
        return said(
            averaged(parts, found),
            found,
            f"criterion `{self.name}` finds no float32 tensor of removable channels that layers read",
        )


@dataclass(frozen=True)
class _Read:
    """A tensor that a layer sums over, and the axis along which it does."""

    name: str
    axis: int


def _measured(graph: gs.Graph, found: ChannelGroups) -> tuple[Mapping[str, Array], onnx.ModelProto]:
    """The tensors that layers read, by name the channels along axis 1; the model that makes them.

    Where a layer sums over another axis, as MatMul does over the last, the model has a transposed copy.
    """
    from onnx import helper

    model = to_proto(graph)
    reads: dict[str, Array] = {}
    for read, line in _reads(found).items():
        name = read.name
        if read.axis != 1:
            name = f"{read.name}/axis_{read.axis}_first"
            order = list(range(len(found.labels[read.name])))
            order.insert(1, order.pop(read.axis))
            model.graph.node.append(helper.make_node("Transpose", [read.name], [name], perm=order))
        reads[name] = line
    return reads, model


def _reads(found: ChannelGroups) -> dict[_Read, Array]:
    """The channels along the axes that layers sum over, but for the first axis, of tensors that are computed."""
    result: dict[_Read, Array] = {}
    for layer in found.layers:
        for name in layer.inputs[:2]:
            if layer.reads is None or name in found.constants:
                continue
            for axis, line in enumerate(found.labels.get(name, ())):
                if axis and line is not None and np.array_equal(line, layer.reads):
                    result[_Read(name, axis)] = line
                    break
    return result


def _images(criterion: Criterion, ctx: Context) -> Dataset:
    if ctx.calibration is None:
        raise UsageError(f"criterion `{criterion.name}` needs calibration images: give some with --calib")
    return ctx.calibration.head(_IMAGES)


def _reported(criterion: Criterion, ctx: Context) -> Callable[[int, int], None]:
    return lambda done, total: ctx.progress(f"activations for `{criterion.name}`", done, total)
