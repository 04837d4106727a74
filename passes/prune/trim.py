"""The pass `trim`: what saves most time on the target for what it costs goes, until the network is as fast as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc.cost.model import Totals
from lpcc.passes.prune.curves import SHARES, count_of
from lpcc.passes.prune.multiples import channel_multiple, kept_counts
from lpcc.passes.prune.portions import Curve
from lpcc.passes.prune.prices import Prices
from lpcc.passes.prune.prune_channels import PruneChannels
from lpcc.passes.prune.pruning import Candidates, Pruning, pins
from lpcc.passes.prune.ranking import Counts, Ranked
from lpcc.pipeline import Changes, Context, Need, Pass, Range

_TINY = 1e-12


@dataclass(frozen=True)
class Trim(Pruning):
    """Remove channels step by step, always those that save most on the target for the damage, until goals are met.

    With T the predicted time of the network as it is now and D(g, n) the measured damage to the outputs when group g
    alone loses n channels, each step takes the group and the number that the target's kernels like best, with

        largest  (T - T') / (D(g, n') - D(g, n))

    where T' is the time after the step: platform-aware trimming as in Yang et al., NetAdapt (2018, arXiv 1804.03230),
    and Li et al., CompactNet (2019, arXiv 1905.11669), with damages measured once (`lpcc.sensitivity`, on calibration
    images, each group repaired by itself) in place of training between steps. Channels are left in numbers that fill
    whole blocks of the target's kernels (`Compute.channel_multiple`). A step that saves no time is never taken. Where
    another goal than time is open, its cost takes the place of T. The last step may go further than it must: then
    channels come back, most damage first, as long as the goals are met.

    The order in which the channels of a group go and the repair of the result are those of `prune-channels`.

    Prices are those of the target's cost model for the network as it comes to this pass: in float, if it stands before
    `quantize`. Left alone: groups that are pinned (`lpcc inspect --groups` says why), those a layer in `skip` makes,
    and, with the reason, those the criterion says nothing of. A goal that cannot be met raises
    `lpcc.search.Infeasible` with the best that can.
    """

    name: ClassVar[str] = "trim"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.TARGET})

    speedup: Annotated[float, Range(min=1)] | None = None
    """How many times as fast as now the network must be on the target."""
    macs: Annotated[float, Range(0, 1)] | None = None
    """Share of the multiply-accumulates that may be left."""
    size: Annotated[float, Range(0, 1)] | None = None
    """Share of the bytes of the weights that may be left."""
    energy: Annotated[float, Range(0, 1)] | None = None
    """Share of the energy of an inference that may be left."""

    def __post_init__(self) -> None:
        if self.speedup is None and self.macs is None and self.size is None and self.energy is None:
            raise ValueError("give `speedup`, `macs`, `size` or `energy`")

    def sketch(self, graph: gs.Graph, ctx: Context) -> Changes:
        """Trim as if all groups were equally sensitive, by the sum of magnitudes."""
        return replace(self, criterion="l1", repair="none").run(graph, replace(ctx, calibration=None))

    def single(self) -> Pass:
        """See the base class."""
        alike = PruneChannels(shares=("*=0",), criterion=self.criterion, repair=self.repair, images=self.images)
        return alike.single()

    def counts(self, candidates: Candidates, ctx: Context) -> Counts:
        """See the class."""
        ranking, target = candidates.ranking, ctx.target
        if target is None or not ranking.groups:
            raise self.beyond("no channel of the network can go", pins(candidates.found))
        prices = Prices(candidates.graph, candidates.found, target)
        multiple = channel_multiple(target)
        measured = ctx.calibration is not None
        alike = _Steps(
            [_Choice(group, _alike(group), _kept(group, multiple, measured=measured)) for group in ranking.groups],
            lambda counts: prices.price(candidates.gone(counts)),
        )
        goals = _Goals.of(self, alike.price({}))
        if goals.excess(alike.price(alike.furthest)) > 0:  # what is out of reach anyway need not be measured first
            self._walk(alike, goals, ctx)
        curves = candidates.curves
        choices = [replace(choice, curve=curves.get(choice.group.name, choice.curve)) for choice in alike.choices]
        return self._walk(replace(alike, choices=choices), goals, ctx)

    def _walk(self, steps: _Steps, goals: _Goals, ctx: Context) -> Counts:
        """Step by step to the goals, and back as far as they allow. Raises Infeasible where steps end before them."""
        trimmed: Counts = {}
        while goals.excess(steps.price(trimmed)) > 0:
            ctx.progress("trim", sum(trimmed.values()), 0)
            better = steps.best(trimmed, goals)
            if better is None:
                raise self.beyond(*goals.said(steps.price(trimmed)))
            trimmed = better
        while (better := steps.back(trimmed, goals)) is not None:
            trimmed = better
        return trimmed


@dataclass(frozen=True)
class _Goals:
    """Limits of what the network may cost, and what it cost at the start."""

    limits: Mapping[str, float]
    start: Totals

    @classmethod
    def of(cls, asked: Trim, start: Totals) -> _Goals:
        shares = {
            "latency_ms": None if asked.speedup is None else 1 / asked.speedup,
            "macs": asked.macs,
            "weight_bytes": asked.size,
            "energy_mj": asked.energy,
        }
        limits = {name: share * getattr(start, name) for name, share in shares.items() if share is not None}
        return cls(limits, start)

    def excess(self, cost: Totals) -> float:
        """By how much a cost is over the limits, in shares of the costs at the start; 0 where all are met."""
        over = (
            (getattr(cost, name) - limit) / max(getattr(self.start, name), _TINY) for name, limit in self.limits.items()
        )
        return float(sum(max(0.0, share) for share in over))

    def said(self, best: Totals) -> tuple[str, str]:
        """In words: what was asked, and the best that was found."""
        asked, found = [], []
        for name, limit in self.limits.items():
            before, now = getattr(self.start, name), getattr(best, name)
            if name == "latency_ms":
                asked.append(f"speedup={before / limit:g}")
                found.append(f"speedup={int(100 * before / now) / 100:g} ({before:.3f} -> {now:.3f} ms)")
            else:
                option = {"macs": "macs", "weight_bytes": "size", "energy_mj": "energy"}[name]
                asked.append(f"{option}={limit / before:g}")
                found.append(f"{option}={np.ceil(1000 * now / before) / 1000:g}")
        return f"{' and '.join(asked)} cannot be met", f"the best that channels allow is {' with '.join(found)}"


@dataclass(frozen=True, eq=False)
class _Choice:
    """A group, the damage of its channels, and the numbers of them that may be kept, ascending."""

    group: Ranked
    curve: Curve
    kept: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Steps:
    """Single steps from one set of counts to the next."""

    choices: Sequence[_Choice]
    price: Callable[[Counts], Totals]

    @property
    def furthest(self) -> Counts:
        """As many channels of each group as may go."""
        return {choice.group.name: len(choice.group) - choice.kept[0] for choice in self.choices}

    def best(self, counts: Counts, goals: _Goals) -> Counts | None:
        """The counts after the step of most gain for its damage; None where no step saves time and brings gain."""
        now = self.price(counts)
        before = goals.excess(now)
        best, most = None, 0.0
        for choice in self.choices:
            name, gone = choice.group.name, counts.get(choice.group.name, 0)
            for count in self._further(choice, gone):
                cost = self.price({**counts, name: count})
                gain = before - goals.excess(cost)
                if cost.latency_ms >= now.latency_ms or gain <= 0:
                    continue  # a longer step may save time
                value = gain / max(choice.curve.damage(count) - choice.curve.damage(gone), _TINY)
                if value > most:
                    best, most = {**counts, name: count}, value
                break
        return best

    def back(self, counts: Counts, goals: _Goals) -> Counts | None:
        """The counts with the most damage of one group undone at which goals are still met; None where all must go."""
        best, most = None, 0.0
        for choice in self.choices:
            name, size = choice.group.name, len(choice.group)
            gone = counts.get(name, 0)
            for count in sorted(size - kept for kept in choice.kept):
                undone = choice.curve.damage(gone) - choice.curve.damage(count)
                if count >= gone or undone <= most:
                    break
                if goals.excess(self.price({**counts, name: count})) <= 0:
                    best, most = {**counts, name: count}, undone
                    break
        return best

    def _further(self, choice: _Choice, gone: int) -> Iterator[int]:
        """Counts that go beyond `gone`, ascending, as far as damage was measured."""
        size = len(choice.group)
        counts = sorted(size - kept for kept in choice.kept)
        return (count for count in counts if count > gone and np.isfinite(choice.curve.damage(count)))


def _kept(group: Ranked, multiple: int, *, measured: bool) -> tuple[int, ...]:
    """How many channels of a group may be kept: `kept_counts`, less those at which no damage is `measured`."""
    size = len(group)
    least = size - count_of(float(SHARES[-1]), size) if measured else 1
    return tuple(kept for kept in kept_counts(group.group, multiple) if kept >= least)


def _alike(group: Ranked) -> Curve:
    """Damage where none was measured: the square of the share that goes, the same for all groups."""
    return Curve.through({count: (count / len(group)) ** 2 for count in range(len(group))})
