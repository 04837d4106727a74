"""The criterion `particles`: which channels the networks that lose little do without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups
from lpcc.data import Batch, Dataset
from lpcc.errors import UsageError
from lpcc.graph import to_proto
from lpcc.passes.prune.criteria.base import Criterion
from lpcc.passes.prune.criteria.divergence import counting
from lpcc.passes.prune.criteria.gates import GatedSession, gated
from lpcc.passes.prune.criteria.gradients import WORK, Work
from lpcc.pipeline import Context, Need
from lpcc.quality.noise import noise_of

Array = np.ndarray[Any, Any]

_PARTICLES = 64
_IMAGES = 4
_ROUNDS = (4, 160)
_CLOSED = 0.02
_MOVED = 0.25


class Particles(Criterion):
    """Sequential importance resampling of masks over channels.

    A particle is a mask that closes one in fifty of the channels (one at least), drawn among all of them. In each round
    all particles are judged on the next 4 images, and

        w_i = exp(-(d_i - min d) / std d)    d_i: noise of the outputs with the channels of particle i at zero

    are their weights, which are made to add up to 1. Particles of the next round are drawn by weight (systematic
    resampling), and each opens a quarter of its closed channels and closes as many others. A channel matters
    as much as the particles that close it carry less weight than their number:

        score_c = (1 / P + sum over rounds of  sum_i (1 - m_ic) / P)
                / (1 / P + sum over rounds of  sum_i (1 - m_ic) w_i)    m_ic: 1 where particle i of P keeps channel c

    1 is a channel like all others, or one that no particle closed. (The share of the weight that keeps a channel ranks
    worse: it also counts how often a channel was handed on with others that did no harm.)

    Anwar, Hwang, Sung: Structured pruning of deep convolutional neural networks (2017, arXiv 1512.08571), section 3.1,
    where particles are weighted by wrong classes and the best one is taken; here the noise (`lpcc.quality.noise`) is
    against the network's own outputs, so no labels are needed, and detectors are served. Masks run over all layers at
    once, and those that close channels of a layer that matters die out: scores are comparable.

    64 particles, and as many rounds as keep the whole below 4e11 multiply-accumulates, at most 160 and at least 4,
    for which the images of a round are fewer. What channels do together is seen, which derivatives do not see; but
    with many channels and few rounds chance decides much. The same seed gives the same scores. Channels that are
    pinned are NaN.
    """

    name: ClassVar[str] = "particles"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    comparable: ClassVar[bool] = True

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:
        """See the class.

        Raises:
            UsageError: there are no images; no output is of floats.
            ModelError: onnxruntime cannot run the network.
            DataError: a sample turns out to be wrong.
        """
        if ctx.calibration is None or not len(ctx.calibration):
            raise UsageError(f"criterion `{self.name}` needs images: give calibration data")
        network = gated(graph, found)
        channels = np.flatnonzero(network.known)
        result = np.full(found.count, np.nan)
        if not len(channels):
            return result
        classes, others = counting(to_proto(graph))
        session = GatedSession(network, (*classes, *others), threads=os.cpu_count() or 1)
        runs = WORK // Work.of(graph, ctx.calibration).each // _PARTICLES  # of one image through all particles
        images = int(np.clip(runs // _ROUNDS[0], 1, _IMAGES))
        rounds = int(np.clip(runs // images, *_ROUNDS))
        batches = _endless(ctx.calibration, images)
        rng = ctx.rng(self.name)
        closed = max(1, round(_CLOSED * len(channels)))
        masks = np.stack([_swapped(np.ones(len(channels), dtype=bool), closed, 0, rng) for _ in range(_PARTICLES)])
        closures, weighted = (np.full(len(channels), 1 / _PARTICLES) for _ in range(2))
        for done in range(rounds):
            weights = _weights(_noises(session, next(batches), masks, channels))
            closures += (~masks).mean(axis=0)
            weighted += weights @ ~masks
            ctx.progress(f"score channels by {self.name}", done + 1, rounds)
            moved = max(1, round(_MOVED * closed))
            masks = np.stack([_swapped(masks[i], moved, moved, rng) for i in _resampled(weights, rng)])
        result[channels] = closures / weighted
        return result


def _endless(data: Dataset, size: int) -> Iterator[Batch]:
    """Batches without end, from the first one again where they run out."""
    while True:
        yield from data.batches(size)


def _noises(session: GatedSession, batch: Batch, masks: Array, channels: Array) -> Array:
    """Noise of the outputs on a batch with each particle's mask, (particles,)."""
    reference = session.run(batch.feeds)
    gates = np.ones((len(masks), session.network.count))
    gates[:, channels] = masks
    return np.asarray([noise_of([(reference, session.run(batch.feeds, row[None]))]) for row in gates])


def _weights(noises: Array) -> Array:
    """Weights of particles (particles,), that add up to one; none for those whose outputs are not finite."""
    sound = np.isfinite(noises)
    if not sound.any():
        return np.full(len(noises), 1 / len(noises))
    spread = float(noises[sound].std())
    weights = np.where(sound, 1.0, 0.0)
    if spread > 0:
        weights[sound] = np.exp(-(noises[sound] - noises[sound].min()) / spread)
    return np.asarray(weights / weights.sum())


def _resampled(weights: Array, rng: np.random.Generator) -> Array:
    """Numbers of the particles of the next round: each about as often as its weight says."""
    count = len(weights)
    places = (rng.random() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), places), count - 1)


def _swapped(mask: Array, close: int, reopen: int, rng: np.random.Generator) -> Array:
    """A mask with some open channels closed and some closed ones opened, as far as there are any."""
    opened, closed = np.flatnonzero(mask), np.flatnonzero(~mask)
    result = mask.copy()
    result[rng.choice(closed, min(reopen, len(closed)), replace=False)] = True
    result[rng.choice(opened, min(close, len(opened)), replace=False)] = False
    return result
