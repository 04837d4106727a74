"""What passes that prune channels have in common: which go first, by what, and how the rest is mended."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups, channel_groups
from lpcc.graph import clone
from lpcc.passes.prune.criteria import criterion, normalised
from lpcc.passes.prune.curves import measured_curves
from lpcc.passes.prune.mending import Repair, images_measured, prune
from lpcc.passes.prune.portions import Curve
from lpcc.passes.prune.ranking import Counts, Ranking
from lpcc.passes.prune.sharing import unshare
from lpcc.passes.reconstruct import fingerprint
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.search import Infeasible

Array = np.ndarray[Any, Any]

_TINY = 1e-30

CriterionName = Literal[
    "reconstruction",
    "l1",
    "l2",
    "bn-scale",
    "geometric-median",
    "apoz",
    "energy",
    "taylor",
    "fisher",
    "hessian",
    "nisp",
    "particles",
    "random",
]


@dataclass(frozen=True, eq=False)
class Candidates:
    """A graph whose channels have been scored."""

    graph: gs.Graph
    found: ChannelGroups
    scores: Array
    """Scores that can be compared over layers, (found.count,)."""
    ranking: Ranking
    measure: Callable[[], Mapping[str, Curve]]
    """Measures what the groups do to the outputs, each alone."""

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """The damage of each group, by its name; measured when it is asked for. Empty without images."""
        return self.measure()

    def damage(self, counts: Counts, curves: Mapping[str, Curve]) -> Mapping[str, float]:
        """By its first layer, the damage of a group alone: as measured, or else the share of its scores that goes."""
        found: dict[str, float] = {}
        for group in self.ranking.groups:
            count, curve, scores = counts.get(group.name, 0), curves.get(group.name), self.scores[group.order]
            lost = float(scores[:count].sum() / max(scores.sum(), _TINY))
            if count:
                damage = lost if curve is None else curve.damage(count)
                found[group.layers[0]] = max(damage, found.get(group.layers[0], 0.0))
        return found

    def gone(self, counts: Counts) -> Array:
        """Which channels go, bool (found.count,)."""
        removed = np.zeros(self.found.count, dtype=bool)
        removed[self.ranking.channels(counts)] = True
        return removed


@dataclass(frozen=True)
class Pruning(Pass):
    """A pass that removes channels. How many of each group go, `counts` says.

    A group that the guard takes back (`Context.returned`) keeps its channels, and no other loses more for it: then the
    goal is not met, as the budget forbids it. Layers that the user lists in `skip` are never looked at.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    criterion: CriterionName = "reconstruction"
    """By what the channels of a group are chosen."""
    repair: Repair = "layerwise"
    """What is done for the layers that are left."""
    images: Annotated[int, Range(min=2)] = 1000
    """Calibration images that are used at most."""
    cache: str = ""
    """Folder in which measured sensitivities are kept: a run that was stopped goes on, a second one is quick."""
    processes: Annotated[int, Range(min=0)] = 0
    """Processes that measure at the same time; 0: one for each core. The result does not depend on it."""
    skip: tuple[str, ...] = ()
    """Names of layers whose outputs keep all channels; ``*`` and ``?`` stand for anything."""

    @property
    def measures(self) -> bool:
        """Whether counts depend on measured damage."""
        return True

    @abstractmethod
    def single(self) -> Pass:
        """What prunes one group alone, by the same criterion: a pass whose option `shares` says how much goes."""

    @abstractmethod
    def counts(self, candidates: Candidates, ctx: Context) -> Counts:
        """How many channels of each group go.

        Raises:
            Infeasible: what is asked cannot be met.
            UsageError: an option names a layer that there is not.
        """

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Score, choose, remove and mend; see the class."""
        changes = Changes()
        candidates = self._candidates(graph, ctx)
        ranking = candidates.ranking
        for name, reason in ranking.refused.items():
            changes.refuse(name, reason)
        back = [group.name for group in ranking.groups if ctx.returned.intersection(group.layers)]
        own = replace(self, skip=tuple(layer for layer in self.skip if layer not in ctx.returned))
        target = None if ctx.target is None else ctx.target.name
        key = f"prune: counts {own} {target} {ctx.calibration is None} {fingerprint(candidates.graph)}"
        counts = {**ctx.keep(key, lambda: self.counts(candidates, ctx)), **dict.fromkeys(back, 0)}
        channels = ranking.channels(counts)
        if len(channels):
            unshare(graph)
            prune(graph, candidates.found, channels, self.repair, ctx, self.images, changes)
            for group in ranking.groups:
                for layer in group.layers if counts.get(group.name) else ():
                    changes.done(layer, "made narrower")
            changes.damage.update(candidates.damage(counts, candidates.curves if self.measures else {}))
        elif not ctx.returned:
            whole = graph.name or "graph"
            changes.refuse(whole, "what is asked takes no channel, in the numbers of them that kernels like")
        return changes

    def beyond(self, what: str, best: str) -> Infeasible:
        """The error of a goal that cannot be met, with the best that can."""
        without = " without the layers in `skip`" if self.skip else ""
        return Infeasible(f"{self.name}: {what}{without}: {best}")

    def _candidates(self, graph: gs.Graph, ctx: Context) -> Candidates:
        ready = clone(graph)
        unshare(ready)
        found = channel_groups(ready)
        chosen = criterion(self.criterion)
        data = ctx.calibration
        few = replace(ctx, calibration=None if data is None else images_measured(data, self.images, self.repair))
        size = 0 if few.calibration is None else len(few.calibration)
        key = f"prune: scores {self.criterion} {size} {fingerprint(ready)}"
        scores = np.full(found.count, np.nan)
        if any(group.pinned is None and group.makers for group in found.groups):
            scores = ctx.keep(key, lambda: chosen.scores(ready, found, few))
        comparable = scores if chosen.comparable else normalised(scores, found)
        ranking = Ranking.of(found, scores, frozenset(self.skip) - ctx.returned)
        curves = partial(measured_curves, ready, ranking, self.single(), ctx, self.images, self.cache, self.processes)
        return Candidates(ready, found, comparable, ranking, curves)


def pins(found: ChannelGroups) -> str:
    """Why the channels of a network stay, the first three reasons."""
    reasons = list(dict.fromkeys(group.pinned for group in found.groups if group.pinned))
    return "; ".join(reasons[:3]) if reasons else "it has no layers that make and read channels"
