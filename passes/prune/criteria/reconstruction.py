"""What the layers that read a channel lose without it, if least squares make the best of the others."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups, Group
from lpcc.analysis.groups.found import places_of
from lpcc.calibrate.patches import NoPatches
from lpcc.passes.prune.criteria.base import Criterion, said
from lpcc.passes.prune.repair import readings
from lpcc.passes.reconstruct import Reading, Sums, solved, sums_of
from lpcc.pipeline import Context, Need

Array = np.ndarray[Any, Any]

_STEPS = 256
"""Times at most that a group is looked at again: of wider ones several channels go at a time."""
_UNKNOWN = 1e6
"""Error of a channel of which sums that have no inverse say nothing: more than any other, in shares of a signal."""
_STRIPE = 512
"""Rows of a large matrix that are changed at a time."""


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

    Needs images. NaN for channels that no layer reads as rows of a matrix (ConvTranspose, weights that are computed),
    or that hold numbers that are not finite.

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
            names = [layer.output for layer in group.readers if layer.output in sums]
            surgeons = []
            for name in names:
                with suppress(NoPatches):
                    surgeons.append(_Surgeon.of(*layers[name], sums[name], group))
            if surgeons:
                result[group.channels] = _ordered(surgeons, len(group))
        return said(
            result,
            found,
            "criterion `reconstruction`: no layer that reads channels that can go has constant weights to refit, or "
            "numbers to fit them to: choose another criterion, such as `l2`",
        )


def _ordered(surgeons: list[_Surgeon], count: int) -> Array:
    """Sum of errors up to the removal of each of `count` channels, of which the cheapest goes next."""
    scores = np.zeros(count)
    left = np.arange(count)
    total, at_once = 0.0, -(-count // _STEPS)
    while len(left):
        errors = np.sum([surgeon.errors(left) for surgeon in surgeons], axis=0)
        errors = np.clip(np.nan_to_num(errors, nan=np.inf), 0.0, _UNKNOWN)
        cheapest = np.argsort(errors, kind="stable")[:at_once]
        for place in cheapest.tolist():
            total = float(np.nextafter(total + errors[place], np.inf))  # later ones are never equal
            scores[left[place]] = total
        for surgeon in surgeons:
            surgeon.remove(left[cheapest])
        left = np.delete(left, cheapest)
    return scores


@dataclass
class _Surgeon:
    """One layer that reads a group: the inverse of its moments and its weights, as channel after channel goes."""

    inverse: Array  # groups, depth, depth
    weights: Array  # groups, depth, outputs
    numbers: Array  # groups, channels, numbers of a row that are of the channel
    share: float
    alive: Array  # groups, depth: whether a number of a row is still there

    @classmethod
    def of(cls, layer: Reading, channels: Array, sums: Sums, group: Group) -> _Surgeon:
        """Raises NoPatches where the moments have no inverse."""
        weights, damped = layer.matrix(), sums.damped()
        made = float((np.matmul(sums.gram, weights) * weights).sum())
        numbers = np.stack([places_of(row, group.channels) for row in channels])
        inverse = solved(damped, np.broadcast_to(np.eye(damped.shape[1]), damped.shape))
        return cls(inverse, weights, numbers, 1.0 / made if made > 0 else 0.0, np.ones(channels.shape, dtype=bool))

    def errors(self, left: Array) -> Array:
        """What removing each of the channels `left` next would cost, (left,)."""
        total = np.zeros(len(left))
        for inverse, weights, each in zip(self.inverse, self.weights, self.numbers, strict=True):
            numbers = each[left]
            own = weights[numbers]  # channels, numbers, outputs
            blocks = inverse[numbers[:, :, None], numbers[:, None, :]]
            total += (own * _divided(own, blocks)).sum(axis=(1, 2))
        return total * self.share

    def remove(self, channels: Array) -> None:
        """Take channels out; what is left of the weights makes the best of it."""
        gone = self.numbers[:, channels].reshape(len(self.numbers), -1)
        for inverse, weights, numbers, alive in zip(self.inverse, self.weights, gone, self.alive, strict=True):
            rows, own = inverse[numbers], weights[numbers]
            gain = _divided(rows, rows[:, numbers]).T
            for first in range(0, len(gain), _STRIPE):
                stripe = slice(first, first + _STRIPE)
                weights[stripe] -= gain[stripe] @ own
                inverse[stripe] -= gain[stripe] @ rows
            alive[numbers] = False
        if 2 * self.alive[0].sum() <= len(self.alive[0]):
            self._shrink()

    def _shrink(self) -> None:
        """Forget the numbers that are gone, as many in each group."""
        places = [np.flatnonzero(alive) for alive in self.alive]
        pairs = list(zip(self.inverse, self.weights, places, strict=True))
        self.inverse = np.stack([inverse[np.ix_(kept, kept)] for inverse, _, kept in pairs])
        self.weights = np.stack([weights[kept] for _, weights, kept in pairs])
        now = np.cumsum(self.alive, axis=1) - 1
        self.numbers = np.stack([line[numbers] for line, numbers in zip(now, self.numbers, strict=True)])
        self.alive = np.ones(self.inverse.shape[:2], dtype=bool)


def _divided(values: Array, blocks: Array) -> Array:
    """``blocks^-1 values``; NaN, as of errors that are not known, where a block has no inverse."""
    try:
        return np.asarray(np.linalg.solve(blocks, values))
    except np.linalg.LinAlgError:
        return np.full_like(values, np.nan)
