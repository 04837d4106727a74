"""What the layers that read a channel lose without it, if least squares make the best of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups, Group
from lpcc.errors import UsageError
from lpcc.passes.prune.criteria.base import Criterion
from lpcc.passes.prune.repair.reading import Reading, Sums, readings, sums_of
from lpcc.pipeline import Context, Need

Array = np.ndarray[Any, Any]

_STEPS = 256
"""Times at most that a group is looked at again: of wider ones several channels go at a time."""


class Reconstruction(Criterion):
    """Error of the layers that read a channel, once it and all that matter less are gone and least squares refit them.

    For a layer with weights W that reads rows with second moments H (plus a small ridge), removing the numbers S of a
    row and refitting the others costs

        e(S) = tr( W_S^T  [(H^-1)_SS]^-1  W_S )

    and leaves ``H^-1 - (H^-1)_:S [(H^-1)_SS]^-1 (H^-1)_S:`` and ``W - (H^-1)_:S [(H^-1)_SS]^-1 W_S`` for the next one:
    the optimal brain surgeon (Hassibi and Stork 1993) for whole channels, as Kurtic, Frantar and Alistarh, ZipLM (2023,
    arXiv 2302.04089) use it, greedy as Luo, Wu and Lin, ThiNet (2017, arXiv 1707.06342). Errors count relative to the
    variance of what the layer makes, and add up over all layers that read the group. The score of a channel is the sum
    of all errors up to its removal: in a group channels go in the order of their scores.

    Needs images. NaN for channels that no layer reads as rows of a matrix (ConvTranspose, weights that are computed).

    Raises UsageError where that is so of all.
    """

    name: ClassVar[str] = "reconstruction"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    comparable: ClassVar[bool] = True

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:
        """See the class."""
        layers = readings(graph, found)
        data = ctx.calibration
        sums = {} if data is None else sums_of(graph, [layer for layer, _ in layers.values()], data, ctx)
        result = np.full(found.count, np.nan)
        groups = [group for group in found.groups if group.pinned is None]
        for done, group in enumerate(groups):
            ctx.progress("order channels", done, len(groups))
            names = [layer.name for layer in group.readers if layer.name in sums]
            surgeons = [_Surgeon.of(*layers[name], sums[name], group) for name in names]
            if surgeons:
                result[group.channels] = _ordered(surgeons, len(group))
        if not np.isfinite(result).any():
            raise UsageError(
                "criterion `reconstruction`: no layer that reads channels that can go has constant weights to refit: "
                "choose another criterion, such as `l2`"
            )
        return result


def _ordered(surgeons: list[_Surgeon], count: int) -> Array:
    """Sum of errors up to the removal of each of `count` channels, of which the cheapest goes next."""
    scores = np.zeros(count)
    left = np.ones(count, dtype=bool)
    total, at_once = 0.0, -(-count // _STEPS)
    while left.any():
        errors = np.sum([surgeon.errors() for surgeon in surgeons], axis=0)
        errors[~left] = np.inf
        for channel in np.argsort(errors, kind="stable")[: min(at_once, int(left.sum()))].tolist():
            total = np.nextafter(total, np.inf) + max(float(errors[channel]), 0.0)  # later ones are never equal
            scores[channel] = total
            left[channel] = False
            for surgeon in surgeons:
                surgeon.remove(channel)
    return scores


@dataclass
class _Surgeon:
    """One layer that reads a group: the inverse of its moments and its weights, as channel after channel goes."""

    inverse: Array  # groups, depth, depth
    weights: Array  # groups, depth, outputs
    numbers: Array  # groups, channels, numbers of a row that are of the channel
    share: float

    @classmethod
    def of(cls, layer: Reading, channels: Array, sums: Sums, group: Group) -> _Surgeon:
        weights = layer.matrix()
        made = float(np.einsum("gdo,gde,geo->", weights, sums.gram, weights))
        numbers = np.stack([_numbers(row, group.channels) for row in channels])
        return cls(np.linalg.inv(sums.damped()), weights, numbers, 1.0 / made if made > 0 else 0.0)

    def errors(self) -> Array:
        """What removing each channel next would cost, (channels,); of one that is gone, anything."""
        total = np.zeros(self.numbers.shape[1])
        for inverse, weights, numbers in zip(self.inverse, self.weights, self.numbers, strict=True):
            own = weights[numbers]  # channels, numbers, outputs
            blocks = inverse[numbers[:, :, None], numbers[:, None, :]]
            blocks = np.where(_gone(blocks), np.eye(numbers.shape[1]), blocks)
            total += (own * np.linalg.solve(blocks, own)).sum(axis=(1, 2))
        return total * self.share

    def remove(self, channel: int) -> None:
        """Take a channel out; what is left of the weights makes the best of it."""
        for inverse, weights, numbers in zip(self.inverse, self.weights, self.numbers[:, channel], strict=True):
            gain = np.linalg.solve(inverse[np.ix_(numbers, numbers)], inverse[numbers]).T
            weights -= gain @ weights[numbers]
            inverse -= gain @ inverse[numbers]
            inverse[numbers], inverse[:, numbers], weights[numbers] = 0.0, 0.0, 0.0


def _numbers(line: Array, channels: Array) -> Array:
    """Where each of the channels stands in a row, (channels, places)."""
    order = np.argsort(line, kind="stable")
    order = order[np.isin(line[order], channels)]
    return np.asarray(order.reshape(len(channels), -1))


def _gone(blocks: Array) -> Array:
    """Whether a block (channels, n, n) is of a channel that went, whose numbers were set to zero."""
    return np.asarray(np.einsum("ckk->c", blocks) == 0)[:, None, None]
