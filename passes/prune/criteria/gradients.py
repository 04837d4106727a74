"""Criteria from derivatives: how much the outputs change where a channel is closed a little."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.data import Batch, Dataset
from lpcc.errors import ModelError, UsageError
from lpcc.graph import to_proto
from lpcc.passes.prune.criteria.base import Criterion
from lpcc.passes.prune.criteria.divergence import Divergence, counting, divergence_of
from lpcc.passes.prune.criteria.gates import Gated, GatedSession, gated
from lpcc.pipeline import Context, Need

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

WORK = 400_000_000_000
"""Multiply-accumulates that scores may take, about: it decides how many images are used."""
_MOST_IMAGES = 1024
_BATCH_WORK = 4_000_000_000
_MOST_ROWS = 64
_STEP = 0.005
"""By which gates are opened and closed in finite differences."""


class Derivatives(Criterion):
    """Criteria from derivatives of the outputs by gates of channels (`lpcc.passes.prune.criteria.gates`).

    For each image some random directions of its outputs are drawn: ``a = A e`` with random signs e, so that the mean of
    ``(a' d)^2`` is twice the divergence of outputs that change by d from those that they were: of the class
    probabilities for classifiers, relative energy for all others (`Divergence`). ``L = a' y`` takes the place of the
    loss, and no label is needed: a derivative ``g_c = dL/dm_c`` at open gates is the sum over all places of the channel
    of activation times gradient, in all layers that read it.

    With torch installed the derivatives come from `lpcc.train.network`, backwards, of all channels at once. Without it,
    where it cannot run the network or pass through an operator, and where a gradient is not finite, they are central
    differences in onnxruntime, gates at ``1 +- 0.005``, in two runs for each channel and image: for 400 channels that
    takes a hundred times as long. Both give the same but for rounding, and for kinks of ReLUs between the two gates.

    Numbers that are rounded in the network are taken for smooth by torch, and are steps for differences, larger than
    those of the gates: networks are scored before they are quantised.

    As many images are used as keep the whole below 4e11 multiply-accumulates, at most 1024, and one at least: without
    torch, large networks take minutes for each, and one image says little.

    Channels that are pinned are NaN.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    comparable: ClassVar[bool] = True
    directions: ClassVar[int]
    """How many are drawn for each image: if its outputs are no more numbers than that, one is taken for each."""

    def scores(self, graph: gs.Graph, found: ChannelGroups, ctx: Context) -> Array:
        """See the class.

        Raises:
            UsageError: there are no images; no output is of floats; the size of one differs from run to run.
            ModelError: onnxruntime cannot run the network.
            DataError: a sample turns out to be wrong.
        """
        if ctx.calibration is None or not len(ctx.calibration):
            raise UsageError(f"criterion `{self.name}` needs images: give calibration data")
        data, network, work = ctx.calibration, gated(graph, found), Work.of(graph, ctx.calibration)

        def subject(runs: int) -> Subject:
            return Subject.of(graph, network, data.head(work.images(runs)), work)

        result = None
        if find_spec("torch") is not None:
            with suppress(ModelError):
                result = self._mean(backward, subject(2 + 2 * self.directions), ctx)
        if result is None or not np.isfinite(result).all():
            result = self._mean(differences, subject(2 + 2 * int(network.known.sum())), ctx)
        return np.where(network.known & np.isfinite(result), result, np.nan)

    def _mean(self, way: Callable[[Subject, _Signs], Iterator[Array]], subject: Subject, ctx: Context) -> Array:
        """Mean over the images of what each says, (count,)."""
        total, images = np.zeros(subject.network.count), 0
        for derivatives in way(subject, _Signs(ctx, self.name, self.directions)):
            total += self.of(derivatives)
            images += 1
            ctx.progress(f"score channels by {self.name}", images, len(subject.data))
        return total / max(1, images)

    @abstractmethod
    def of(self, derivatives: Array) -> Array:
        """Scores (count,) from the derivatives (directions, count) of one image."""


class Taylor(Derivatives):
    """What closing a channel does to the loss, to first order.

        score_c = mean over images of |dL/dm_c|,   dL/dm_c = sum over places of activation x gradient

    Molchanov, Tyree, Karras, Aila, Kautz: Pruning convolutional neural networks for resource efficient inference (2017,
    arXiv 1611.06440), equations 7 and 8, with the L of `Derivatives` for the loss, which needs no labels. In the unit
    of the root of the divergence, the same for all layers.
    """

    name: ClassVar[str] = "taylor"
    directions: ClassVar[int] = 4

    def of(self, derivatives: Array) -> Array:
        """The term of one image; see the class."""
        return np.asarray(np.abs(derivatives).mean(axis=0))


class Fisher(Derivatives):
    """What closing a channel does to the loss, to second order, with the Fisher information for the Hessian.

        score_c = 1/2 mean over images of (dL/dm_c)^2

    Theis, Korshunova, Tejani, Huszar: Faster gaze prediction with dense networks and Fisher pruning (2018,
    arXiv 1801.05787), equation 6. There L is the loss of the labels; here it is that of `Derivatives`, whose variance
    is the Fisher information of the network's own outputs: so this is the divergence expected of closing the channel,
    in nats for a classifier, the same for all layers.
    """

    name: ClassVar[str] = "fisher"
    directions: ClassVar[int] = 4

    def of(self, derivatives: Array) -> Array:
        """The term of one image; see the class."""
        return np.asarray(np.square(derivatives).mean(axis=0) / 2)


class Hessian(Derivatives):
    """Optimal brain damage: half the second derivative of the divergence by the gate.

        score_c = 1/2 mean over images of d^2 D / dm_c^2 = 1/2 mean of (dy/dm_c)' M (dy/dm_c)

    LeCun, Denker, Solla: Optimal brain damage (NIPS 1989), equation 5, with a gate in place of a parameter. D is the
    divergence from the network itself and least there: its gradient is zero, and its Hessian is the Gauss-Newton matrix
    exactly. That is what `fisher` estimates from few directions of the outputs. Here they are 32, which leaves
    little to chance; or, where all outputs of an image are at most 32 numbers, one for each, which leaves nothing.
    """

    name: ClassVar[str] = "hessian"
    directions: ClassVar[int] = 32

    def of(self, derivatives: Array) -> Array:
        """The term of one image; see the class."""
        return np.asarray(np.square(derivatives).mean(axis=0) / 2)


@dataclass(frozen=True)
class Work:
    """What one run of a network costs."""

    each: int
    """Multiply-accumulates for one image, 1 at least."""

    @classmethod
    def of(cls, graph: gs.Graph, data: Dataset) -> Work:
        """Of an annotated graph, for the batches of `data`."""
        return cls(max(1, sum(macs(graph, bind(graph)).values()) // (data.fixed_batch or 1)))

    def images(self, runs: int) -> int:
        """How many images may be used if each takes so many runs."""
        return int(np.clip(WORK // (self.each * max(1, runs)), 1, _MOST_IMAGES))

    def batch(self) -> int:
        """How many rows go through the network at a time."""
        return int(np.clip(_BATCH_WORK // self.each, 1, _MOST_ROWS))


@dataclass(frozen=True, eq=False)
class Subject:
    """A gated network, what of its outputs counts, images, and how it takes them."""

    network: Gated
    data: Dataset
    session: GatedSession
    divergence: Divergence
    batch: int
    """Images that are run at a time."""
    separates: bool
    """Whether each of them has gates of its own; else those of a batch count as one."""

    @classmethod
    def of(cls, graph: gs.Graph, network: Gated, data: Dataset, work: Work) -> Subject:
        """The network on some images, all of which it sees once."""
        classes, others = counting(to_proto(graph))
        session = GatedSession(network, (*classes, *others), threads=os.cpu_count() or 1)
        batch = data.fixed_batch or max(2, work.batch())
        first = next(iter(data.batches(min(batch, 2))))
        if first.rows == 1 and not data.fixed_batch:
            first = _twice(first)
        separates = data.sampled and session.separates(first)
        size = batch if separates else 1

        def outputs() -> Iterator[tuple[dict[str, Array], int]]:
            for images in data.batches(size):
                found = session.run(images.feeds)
                count = images.count if separates else 1
                yield {name: images.valid(output) for name, output in found.items()}, count

        return cls(network, data, session, divergence_of(classes, others, outputs()), size, separates)

    def images(self, batch: Batch) -> int:
        """How many images of a batch have derivatives of their own."""
        return batch.count if self.separates else 1

    def of_image(self, outputs: Mapping[str, Array], index: int) -> dict[str, Array]:
        """The outputs of one image of a batch."""
        if not self.separates:
            return dict(outputs)
        return {name: output[index : index + 1] for name, output in outputs.items()}


def _twice(batch: Batch) -> Batch:
    """A batch of one image with that image twice."""
    feeds = {name: np.repeat(array, 2, axis=0) if array.ndim else array for name, array in batch.feeds.items()}
    return Batch(feeds, None, 2, 2)


class _Signs:
    """The directions that are drawn for each image, the same in every way to compute."""

    def __init__(self, ctx: Context, name: str, count: int) -> None:
        self._ctx = ctx
        self._name = name
        self._count = count

    def of(self, divergence: Divergence, outputs: Mapping[str, Array], image: int) -> list[dict[str, Array]]:
        """Directions ``A e`` of the outputs of an image: drawn, or all there are where these are no more."""
        sizes = {name: outputs[name].size for name in divergence.outputs}
        total = sum(sizes.values())
        if 0 < total <= self._count:
            drawn = np.sqrt(total) * np.eye(total)  # a mean over them is a sum over unit vectors
        else:
            rng = self._ctx.rng(f"{self._name}: image {image}")
            drawn = rng.choice(np.asarray([-1.0, 1.0]), (self._count, total))
        ends = np.cumsum(list(sizes.values()))
        parts = [np.split(row, ends[:-1]) for row in drawn]
        return [
            {
                name: divergence.root(name, outputs[name], part.reshape(outputs[name].shape))
                for name, part in zip(sizes, row, strict=True)
            }
            for row in parts
        ]


def backward(subject: Subject, signs: _Signs) -> Iterator[Array]:
    """The derivatives (directions, count) of each image, by torch.

    Raises:
        ModelError: torch cannot run the network, or pass through it.
    """
    import torch

    from lpcc.train.network import Network
    from lpcc.train.tensors import tensor_of

    names = subject.divergence.outputs
    # Not frozen: then nodes that gradients cannot pass are refused, in place of being run without them.
    network = Network(subject.network.graph, outputs=names)
    network.requires_grad_(False)
    image = 0
    for batch in subject.data.batches(subject.batch):
        rows = batch.rows if subject.separates else 1
        gates = torch.ones((rows, subject.network.count), requires_grad=True)
        feeds = {name: tensor_of(array) for name, array in batch.feeds.items()}
        found = network({**feeds, subject.network.gates: gates})
        values = {name: found[name].detach().to(torch.float64).numpy() for name in names}
        count = subject.images(batch)
        drawn = [signs.of(subject.divergence, subject.of_image(values, at), image + at) for at in range(count)]
        image += count
        result = np.zeros((count, len(drawn[0]), subject.network.count))
        reached = [name for name in names if found[name].requires_grad]
        for at in range(len(drawn[0]) if reached else 0):
            towards = []
            for name in reached:
                given = np.zeros(values[name].shape)
                if subject.separates:  # zeros stay for the rows that fill up a fixed batch
                    given[:count] = np.concatenate([directions[at][name] for directions in drawn])
                else:
                    given[...] = drawn[0][at][name]
                towards.append(torch.from_numpy(given).to(found[name].dtype))
            outputs, keep = [found[name] for name in reached], at < len(drawn[0]) - 1
            try:
                (gradient,) = torch.autograd.grad(outputs, gates, towards, retain_graph=keep)
            except NotImplementedError as error:
                raise ModelError(f"torch has no gradient: {' '.join(str(error).split())[:200]}") from None
            result[:, at] = gradient[:count].to(torch.float64).numpy()
        yield from result


def differences(subject: Subject, signs: _Signs) -> Iterator[Array]:
    """The derivatives (directions, count) of each image, by central differences.

    Raises:
        UsageError: the size of an output differs from run to run.
        ModelError: onnxruntime cannot run the network.
    """
    image = 0
    for batch in subject.data.batches(subject.batch):
        values = subject.session.run(batch.feeds)
        for at in range(subject.images(batch)):
            drawn = signs.of(subject.divergence, subject.of_image(values, at), image)
            yield _differences(subject, batch, at, drawn)
            image += 1


def _differences(subject: Subject, batch: Batch, at: int, drawn: list[dict[str, Array]]) -> Array:
    """The derivatives (directions, count) of one image of a batch."""
    count = subject.network.count
    channels = np.flatnonzero(subject.network.known)
    names = subject.divergence.outputs
    directions = np.stack([np.concatenate([row[name].ravel() for name in names]) for row in drawn])
    rows = subject.batch if subject.separates else 1
    feeds: Feeds = batch.feeds
    if subject.separates:
        feeds = {name: np.repeat(array[at : at + 1], rows, axis=0) for name, array in batch.feeds.items()}

    def towards(some: Array, step: float) -> Array:
        gates = np.ones((rows, count))
        gates[np.arange(len(some)), some] += step
        found = subject.session.run(feeds, gates)
        size = len(some) if subject.separates else 1
        try:
            flat = [found[name].reshape(rows, -1)[:size].astype(np.float64) for name in names]
            return np.asarray(directions @ np.concatenate(flat, axis=1).T)
        except ValueError:
            raise UsageError(
                "the outputs of the network differ in size from run to run, so they have no derivatives: take another"
                " criterion"
            ) from None

    result = np.zeros((len(drawn), count))
    pending = iter(channels.tolist())
    while some := list(islice(pending, rows)):
        chosen = np.asarray(some)
        result[:, chosen] = (towards(chosen, _STEP) - towards(chosen, -_STEP)) / (2 * _STEP)
    return result
