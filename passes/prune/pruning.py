"""What passes that prune channels have in common: which go first, by what, and how the rest is mended."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.groups import ChannelGroups, channel_groups
from lpcc.graph import clone
from lpcc.passes.prune.criteria import criterion, normalised
from lpcc.passes.prune.mending import Repair, images_used, prune
from lpcc.passes.prune.ranking import Counts, Ranking
from lpcc.passes.prune.repair import fingerprint
from lpcc.passes.prune.sharing import unshare
from lpcc.pipeline import Changes, Context, Fidelity, Need, Pass, Range
from lpcc.search import Infeasible

Array = np.ndarray[Any, Any]

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

    def gone(self, counts: Counts) -> Array:
        """Which channels go, bool (found.count,)."""
        removed = np.zeros(self.found.count, dtype=bool)
        removed[self.ranking.channels(counts)] = True
        return removed


@dataclass(frozen=True)
class Pruning(Pass):
    """A pass that removes channels. How many of each group go, `counts` says."""

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
    """Names of layers whose outputs keep all channels."""

    @abstractmethod
    def counts(self, candidates: Candidates, ctx: Context, changes: Changes) -> Counts:
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
        counts = self.counts(candidates, ctx, changes)
        channels = ranking.channels(counts)
        if len(channels):
            unshare(graph)
            prune(graph, candidates.found, channels, self.repair, ctx, self.images, changes)
            for group in ranking.groups:
                for layer in group.layers if counts.get(group.name) else ():
                    changes.done(layer, "channels removed")
        return changes

    def beyond(self, what: str, best: str, changes: Changes) -> Mapping[str, int]:
        """Say that a goal cannot be met: nothing goes where layers are skipped, as by the guard.

        Raises Infeasible where none is.
        """
        if not self.skip:
            raise Infeasible(f"{self.name}: {what}: {best}")
        changes.refuse("graph", f"{what} is out of reach without the layers in `skip`: {best}")
        return {}

    def _candidates(self, graph: gs.Graph, ctx: Context) -> Candidates:
        ready = clone(graph)
        unshare(ready)
        found = channel_groups(ready)
        chosen = criterion(self.criterion)
        data = ctx.calibration
        few = replace(ctx, calibration=None if data is None else images_used(data, self.images))
        key = f"prune: scores {self.criterion} {self.images} {fingerprint(ready)}"
        scores = ctx.keep(key, lambda: chosen.scores(ready, found, few))
        comparable = scores if chosen.comparable else normalised(scores, found)
        return Candidates(ready, found, comparable, Ranking.of(found, scores, self.skip))


def pins(found: ChannelGroups) -> str:
    """Why the channels of a network stay, the first three reasons."""
    reasons = list(dict.fromkeys(group.pinned for group in found.groups if group.pinned))
    return "; ".join(reasons[:3]) if reasons else "it has no layers that make and read channels"
