"""The pass `learn-ranks`: gates on rank components are trained with the network, and what they close is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups, channel_groups
from lpcc.errors import UsageError
from lpcc.graph import clone
from lpcc.passes.factorize.components import Components, Cost, components, kept_components
from lpcc.passes.prune.mending import prune
from lpcc.passes.prune.multiples import channel_multiple, kept_counts
from lpcc.passes.prune.removal import remove
from lpcc.passes.prune.sharing import unshare
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.search import Infeasible
from lpcc.train.recipe import Recipe

Array = np.ndarray[Any, Any]

_SLACK = 1e-9
"""Relative excess over the goal that counts as rounding."""
_IMAGES = 1000
"""By which layers are fitted to what they made before."""


@dataclass(frozen=True)
class LearnRanks(Recipe, Pass):
    """Learn how many components each factorised layer needs, together with the weights, and cut the rest.

    Behind `factorize` with generous ranks, in front of `distill`::

        factorize{method=bmd energy=0.99},learn-ranks{macs=0.6 epochs=5},distill{epochs=10}

    Each rank component k of a layer gets a gate z_k, 0 or open with a probability that is learned (hard concrete,
    Louizos, Welling and Kingma 2018, arXiv 1712.01312), on the loss with which `distill` trains weights, against the
    network before the first lossy pass:

        minimise over weights and gates  E_z[ L(network with gates z) ]    subject to  E_z[ MACs ] = macs * MACs

    (as in Wang, Wohlwend and Lei 2020, arXiv 1910.04732). How the constraint is kept, `lpcc.train.gates` says. Then the
    components with the most probable gates stay, as many as `macs` allows over all layers, and the others are removed.

    What training gives are the ranks. The weights go back to what they were ("rewinding", Renda, Frankle and Carbin
    2020, arXiv 2003.02389), and all layers that read what changed are fitted in order, by least squares, to what they
    made before (Zhang et al. 2015, arXiv 1505.06798): weights that have learned under the noise of gates are a worse
    start for `distill` than these. Of a VGG on Fashion-MNIST at 15 % of the multiply-accumulates the former end at 90.4
    to 90.6 % after it, the latter at 90.8 %, with 4,000 images.

    Rank components are told by what is around them, not by who made them: channels that one layer makes and one layer
    reads, with nothing but batch norms and depthwise convolutions between. So two layers without an activation between
    them are such, too, as the end of an inverted residual block and the start of the next where nothing is added.

    Unlike with `distill` no images are held out: an epoch with more components left would always do best. The last one
    counts. Trained by Adam alone.

    Left alone, with the reason: a network without rank components, or without a teacher, as outside of
    `lpcc.optimize`; one that meets the goal as it is; one whose training came to numbers that are not finite;
    components that are tied to others. Layers of `skip` keep theirs. A goal that cannot be met raises
    `lpcc.search.Infeasible` with the best that can, before any training.
    """

    name: ClassVar[str] = "learn-ranks"
    fidelity: ClassVar[Fidelity] = Fidelity.RETRAINED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TRAINER, Need.TRAINING})

    epochs: Annotated[int, Range(1, 100_000)] = 5
    """Times that the training samples are gone through."""
    macs: Annotated[float, Range(0, 1)] = 0.5
    """Share of the network's multiply-accumulates, as it comes to this pass, that may be left."""
    multiple: Annotated[int, Range(0, 1024)] = 0
    """Components of a layer that are left are a multiple of this, or all; 0: what the target's kernels like."""
    loss: tuple[str, ...] = ("auto",)
    """Losses, as of `distill`."""
    labels: bool = False
    """Whether the labels of the images count: for the loss ``hard``."""
    learning_rate: Annotated[float, Range(1e-9, 1e3)] = 1e-3
    """The highest rate of the schedule."""
    holdout: Annotated[float, Range(0, 0)] = 0.0
    """Nothing is held out."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """The same seed gives the same result on the same machine with the same number of threads; 0: the command's."""
    skip: tuple[str, ...] = ()
    """Names of layers whose components all stay; ``*`` and ``?`` stand for anything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimiser == "sgd":
            raise UsageError(f"{self.name}: gates are trained by adam or adamw, not by sgd")
        if self.metric is not None or self.patience is not None:
            raise UsageError(f"{self.name}: no images are held out, so `metric` and `patience` say nothing")
        if self.loss != ("auto",) and find_spec("torch") is not None:
            from lpcc.train.losses import parse

            parse("+".join(self.loss))  # a name that is wrong is told before any pass has worked

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Train, choose and cut; see the class."""
        changes = Changes()
        whole = graph.name or "graph"
        data, teacher = ctx.training, ctx.teacher
        if teacher is None or data is None:
            changes.refuse(whole, "no pass before it lost anything: there is no teacher")
            return changes
        task = self._task(graph, ctx, changes)
        if task is None:
            return changes

        from lpcc.train.gates import Gate, learn

        gated, history = learn(
            task.graph,
            teacher,
            data if self.labels else data.unlabelled(),
            [Gate(one.tensor, one.reader, one.rank, one.axis, one.places, one.strength) for one in task.known],
            task.cost,
            task.goal,
            "+".join(self.loss),
            Recipe.of(self, seed=self.seed or ctx.seed),
            float_graph=ctx.unquantized,
            progress=ctx.progress,
        )
        if history.failed:
            changes.refuse(whole, history.stopped)
            return changes
        kept = task.kept(gated.scores())
        unshare(graph)
        mended = replace(ctx, calibration=data.unlabelled())
        prune(graph, task.found, task.gone(kept), "layerwise", mended, _IMAGES, changes)
        task.report(kept, changes)
        return changes

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Cut equal shares of all layers: prices depend on little else."""
        changes = Changes()
        task = self._task(graph, ctx, changes)
        if task is None:
            return changes
        kept = task.kept([-np.arange(len(one)) / len(one) for one in task.known])
        unshare(graph)
        remove(graph, task.found, task.gone(kept))
        task.report(kept, changes)
        return changes

    def _task(self, graph: gs.Graph, ctx: Context, changes: Changes) -> _Task | None:
        """What there is to do; None where nothing is, which `changes` then says.

        Raises:
            Infeasible: the goal cannot be met.
        """
        whole = graph.name or "graph"
        ready = clone(graph)
        unshare(ready)
        found = channel_groups(ready)
        known, refused = components(ready, found, self.skip)
        for name, reason in refused.items():
            changes.refuse(name, reason)
        if not known:
            changes.refuse(whole, "no two layers have rank components between them that could go: `factorize` first")
            return None
        if self.macs == 1:
            changes.refuse(whole, "macs=1 is met already")
            return None
        cost = Cost.of(ready, found, known)
        step = self.multiple or (1 if ctx.target is None else channel_multiple(ctx.target))
        allowed = [kept_counts(one.group, step) for one in known]
        task = _Task(ready, found, known, cost, allowed, self.macs)
        least = task.left([some[0] for some in allowed])
        return replace(task, goal=self._goal(task, least, ctx))

    def _goal(self, task: _Task, least: float, ctx: Context) -> float:
        """Share of the work that is to be left.

        Where the guard has put layers back, the others lose no more for them: of these as much as without.
        """
        key, fixed = f"learn-ranks: {self.macs:g} {self.multiple}", task.cost.fixed
        share = (self.macs - fixed) / (1 - fixed)
        if ctx.returned:
            return max(least, fixed + ctx.keep(key, lambda: share) * (1 - fixed))
        if least > self.macs * (1 + _SLACK):
            without = " without the layers in `skip`" if self.skip else ""
            best = f"the least possible is macs={np.ceil(1000 * least) / 1000:g}"
            raise Infeasible(f"{self.name}: macs={self.macs:g} cannot be met{without}: {best}")
        ctx.keep(key, lambda: share)
        return self.macs


@dataclass(frozen=True, eq=False)
class _Task:
    """A graph, its components, what they cost and how much of that may be left."""

    graph: gs.Graph
    found: ChannelGroups
    known: Sequence[Components]
    cost: Cost
    allowed: Sequence[tuple[int, ...]]
    goal: float

    def left(self, counts: Sequence[int]) -> float:
        """Share of the multiply-accumulates with so many components of each group."""
        return float(self.cost([count / len(one) for count, one in zip(counts, self.known, strict=True)]))

    def kept(self, scores: Sequence[Array]) -> list[Array]:
        """Which components of each group stay, bool, by scores that can be compared over groups."""
        counts = kept_components(scores, self.allowed, self.left, self.goal * (1 + _SLACK))
        return [_largest(own, count) for own, count in zip(scores, counts, strict=True)]

    def gone(self, kept: Sequence[Array]) -> Array:
        """The channels that do not stay."""
        return np.concatenate([one.group.channels[~stay] for one, stay in zip(self.known, kept, strict=True)])

    def report(self, kept: Sequence[Array], changes: Changes) -> None:
        """Say which layers lost components."""
        narrower = [one.layers for one, stay in zip(self.known, kept, strict=True) if not stay.all()]
        for layer in dict.fromkeys(name for layers in narrower for name in layers):
            changes.done(layer, "rank learned")


def _largest(scores: Array, count: int) -> Array:
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    return kept
