"""The pass `prune-channels`: channels that matter least go for good, and least squares mend what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.errors import UsageError
from lpcc.graph import clone
from lpcc.passes.prune.curves import count_of
from lpcc.passes.prune.mending import Repair
from lpcc.passes.prune.multiples import channel_multiple
from lpcc.passes.prune.portions import Family, by_damage, by_even_damage, by_score, lowest, on_multiples, uniform
from lpcc.passes.prune.pruning import Candidates, Pruning, pins
from lpcc.passes.prune.ranking import Counts, Ranked, Ranking
from lpcc.passes.prune.removal import remove
from lpcc.pipeline import Changes, Context, Range
from lpcc.pipeline.layers import matching
from lpcc.search import Infeasible
from lpcc.sensitivity import Removable, Unit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PruneChannels(Pruning):
    """Remove the channels that matter least, a whole group at a time wherever they are tied, and mend what reads them.

    Channels that stand in the same tensors go together (`lpcc.analysis.groups`); residual streams are pruned as all
    others are. A criterion scores each channel over its group (`lpcc.passes.prune.criteria` states the equations and
    papers), `across` says how much goes from where:

    * ``uniform``: the same share of each group (Li et al. 2017, arXiv 1608.08710);
    * ``global``: the lowest scores of all, once they can be compared (Molchanov et al. 2017, arXiv 1611.06440);
    * ``sensitivity``: of each group as many as cost less damage, for the multiply-accumulates that they save, than one
      more channel of another would. The damage that each does when it alone is pruned is measured on calibration
      images, as in Li et al. 2017, section 3.2;
    * ``even``: of each group as many as do the same damage, whatever they save. Residual streams stay wider for it,
      which is worse as it is and better after training (docs/pruning.md).

    Then the layers that read what is left are mended without training (`lpcc.passes.prune.repair`): ``layerwise`` fits
    all layers in order to what they made before (He, Zhang and Sun 2017, arXiv 1707.06168), and where batch norms are
    left re-estimates these; ``local`` fits those that lost an input, each by itself; ``bias`` makes up for means. A
    fifth of the images is kept apart; on these ``layerwise`` must bring the outputs closer to the original's than
    ``local`` does, which counts else.

    Exactly one of `ratio`, `macs` and `shares` says how much goes. Batch norms help training: before `distill` this
    pass belongs in front of `exact`, which folds them.

    Left alone: groups that are pinned (`lpcc inspect --groups` says why), those a layer in `skip` makes, and, with the
    reason, those the criterion says nothing of. A goal that cannot be met raises `lpcc.search.Infeasible` with the best
    that can.
    """

    name: ClassVar[str] = "prune-channels"

    ratio: Annotated[float, Range(0, 1)] | None = None
    """Share of the channels to remove: of each group (uniform), or of all that can go."""
    macs: Annotated[float, Range(0, 1)] | None = None
    """Share of the network's multiply-accumulates that may be left."""
    shares: tuple[str, ...] = ()
    """Share of the channels to remove, layer by layer: ``"layer1*=0.5"``; they go in all layers of their group, too."""
    across: Literal["uniform", "global", "sensitivity", "even"] = "sensitivity"
    """How much goes from which group."""
    multiple: Annotated[int, Range(0, 1024)] = 0
    """Channels of a group that are left are a multiple of this, or all; 0: what the target's kernels like."""

    def __post_init__(self) -> None:
        if sum((self.ratio is not None, self.macs is not None, bool(self.shares))) != 1:
            raise ValueError("give one of `ratio`, `macs` and `shares`")

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Remove as many channels, by the sum of magnitudes and in equal shares: prices depend on little else."""
        across: Literal["uniform", "global"] = "global" if self.across == "global" else "uniform"
        return replace(self, criterion="l1", across=across, repair="none").run(graph, ctx)

    def removable(self, graph: gs.Graph, ctx: Context, shares: Sequence[str]) -> Removable:
        """What `shares` can say; see `lpcc.sensitivity.RemovesShares`."""
        for share in shares:
            if not _share(share):
                raise UsageError(f"{self.name}: a share of the channels is a number above 0 and below 1, not `{share}`")
        candidates = replace(self, images=2)._candidates(graph, ctx)  # which have a score does not depend on the images
        ranking = candidates.ranking
        if not ranking.groups:
            raise Infeasible(f"no channel of the network can go: {pins(candidates.found)}")
        units = [
            Unit(group.name, group.layers, len(group), {share: count_of(float(share), len(group)) for share in shares})
            for group in ranking.groups
        ]
        return Removable(tuple(units), self._stays(candidates))

    @property
    def measures(self) -> bool:
        """See the base class."""
        return self.across in ("sensitivity", "even") and not self.shares

    def single(self) -> PruneChannels:
        """See the base class. Repair goes through one layer after the other only where several lose channels."""
        repair: Repair = "local" if self.repair == "layerwise" else self.repair
        return PruneChannels(shares=("*=0",), criterion=self.criterion, repair=repair, images=self.images)

    def counts(self, candidates: Candidates, ctx: Context) -> Counts:
        """See the class."""
        ranking = candidates.ranking
        if self.shares:
            return self._given(candidates)
        if not ranking.groups:
            raise self.beyond("no channel of the network can go", pins(candidates.found))
        fewest = self._rounded(uniform(ranking)(1.0), ranking, ctx)
        if self.ratio is not None:
            return self._of_channels(self.ratio, fewest, candidates, ctx)
        return self._of_macs(1.0 if self.macs is None else self.macs, fewest, candidates, ctx)

    def _of_channels(self, ratio: float, fewest: Counts, candidates: Candidates, ctx: Context) -> Counts:
        ranking = candidates.ranking
        most = sum(fewest.values())
        if ratio == 1 or (self.across != "uniform" and most < int(ratio * ranking.size)):
            best = f"at most {int(1000 * most / ranking.size) / 1000:g} of the channels can go"
            raise self.beyond(f"ratio={ratio:g} cannot be met", best)
        family = self._family(candidates, ctx)
        if self.across == "uniform":
            return family(ratio)
        return lowest(family, lambda counts: sum(counts.values()) >= int(ratio * ranking.size)) or fewest

    def _of_macs(self, share: float, fewest: Counts, candidates: Candidates, ctx: Context) -> Counts:
        left = macs_left(candidates)
        if left(fewest) > share:
            least = np.ceil(1000 * left(fewest)) / 1000
            raise self.beyond(f"macs={share:g} cannot be met", f"the least possible is macs={least:g}")
        return lowest(self._family(candidates, ctx), lambda counts: left(counts) <= share) or fewest

    def _step(self, ctx: Context) -> int:
        return self.multiple or (1 if ctx.target is None else channel_multiple(ctx.target))

    def _rounded(self, counts: Counts, ranking: Ranking, ctx: Context) -> Counts:
        return {name: on_multiples(ranking.by_name[name], n, self._step(ctx)) for name, n in counts.items()}

    def _family(self, candidates: Candidates, ctx: Context) -> Family:
        """Counts by level, so rounded that kernels like what is left."""
        ranking = candidates.ranking
        if self.across == "sensitivity":
            return by_damage(ranking, candidates.curves, self._worth(candidates), self._step(ctx))
        if self.across == "even":
            return by_even_damage(ranking, candidates.curves, self._step(ctx))
        family = uniform(ranking) if self.across == "uniform" else by_score(ranking, candidates.scores)
        return lambda level: self._rounded(family(level), ranking, ctx)

    def _worth(self, candidates: Candidates) -> Mapping[str, float]:
        """What one channel of each group saves, by its name: multiply-accumulates, or just a channel."""
        if self.macs is None:
            return dict.fromkeys(candidates.ranking.by_name, 1.0)
        left = macs_left(candidates)
        groups = candidates.ranking.groups  # of a group of one channel none goes
        return {group.name: 1.0 - left({group.name: 1}) if len(group) > 1 else 1.0 for group in groups}

    def _given(self, candidates: Candidates) -> Counts:
        """What `shares` says. Raises UsageError for a share that is none, a layer that there is not, or that stays."""
        ranking, option = candidates.ranking, f"{self.name}: shares"
        named: dict[str, list[Ranked]] = {group.name: [group] for group in ranking.groups}
        for group in ranking.groups:
            for layer in group.layers:
                if all(other is not group for other in named.setdefault(layer, [])):
                    named[layer].append(group)
        stays = {layer: why for layer, why in self._stays(candidates).items() if layer not in named}
        counts = {}
        for text in self.shares:
            pattern, _, number = text.rpartition("=")
            share = _share(number)
            if share is None:
                raise UsageError(f"{option} takes layer=share, a share from 0 to below 1, not `{text}`")
            names = sorted(matching([*named, *stays], [pattern], option))
            groups = {group.name: group for name in names for group in named.get(name, ())}
            if not groups:
                raise UsageError(f"{option} names `{names[0]}`, which stays whole: {stays[names[0]]}")
            counts.update({name: count_of(share, len(group)) for name, group in groups.items()})
        return counts

    def _stays(self, candidates: Candidates) -> Mapping[str, str]:
        """Layers that make channels none of which can go, and why."""
        found, ranking = candidates.found, candidates.ranking
        pinned = {layer.name: group.pinned for group in found.groups if group.pinned for layer in group.makers}
        return {**dict.fromkeys(self.skip, "it is in `skip`"), **pinned, **ranking.refused}


def macs_left(candidates: Candidates) -> Callable[[Counts], float]:
    """What share of a network's multiply-accumulates is left when so many channels of each group go."""
    whole = sum(macs(candidates.graph, bind(candidates.graph)).values())
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def left(counts: Counts) -> float:
        key = tuple(counts.items())
        if key not in known:
            trial = clone(candidates.graph)
            remove(trial, candidates.found, candidates.ranking.channels(counts))
            known[key] = sum(macs(trial, bind(trial)).values()) / max(whole, 1)
        return known[key]

    return left


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 <= share < 1 else None
