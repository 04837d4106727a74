"""Which layers are cut, by which method and to which ranks: as the options of `factorize` say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.shapes import bind
from lpcc.errors import UsageError
from lpcc.passes.factorize.factors import Rank
from lpcc.passes.factorize.fitting import STOPPED, Cut
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.base import Decomposition
from lpcc.passes.factorize.methods.kept import decompose
from lpcc.passes.factorize.ranks.analytic import rank_by_energy, rank_by_ratio
from lpcc.passes.factorize.ranks.evbmf import ranks_by_evbmf
from lpcc.passes.factorize.ranks.planning import Goals, Layer, Plan, offers, pays, plan, total
from lpcc.passes.factorize.ranks.prices import Prices
from lpcc.passes.factorize.ranks.skeleton import Work, most, skeleton
from lpcc.passes.prune.multiples import channel_multiple
from lpcc.passes.reconstruct import Sums, by_result
from lpcc.pipeline import Context
from lpcc.pipeline.layers import matching
from lpcc.pipeline.proposals import Proposal, Proposals
from lpcc.search import Infeasible

if TYPE_CHECKING:
    from lpcc.passes.factorize.factorize import Factorize

Array = np.ndarray[Any, Any]
T = TypeVar("T")

_LOOK = 0.2
"""Seconds between two looks at what is waited for."""
_DROPS = 8
"""Networks that are tried for the largest error within a drop; each halves what is open on a logarithmic scale."""
_LEAST, _MOST = 1e-4, 0.9


@dataclass(frozen=True)
class Allotment:
    """By the tensors that layers make: how they are cut, and why others are left alone."""

    cuts: Mapping[str, Cut]
    left: Mapping[str, str]


class Layers:
    """The layers of one graph that could be factorised, and what may become of them.

    `forms` says what they are, and `sums` what they read, where that is known, by the tensors that they make; `sizes`
    are those of open dimensions.
    """

    def __init__(
        self,
        graph: gs.Graph,
        forms: Mapping[str, Form],
        sums: Mapping[str, Sums],
        asked: Factorize,
        ctx: Context,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._graph = graph
        self._forms = forms
        self._sums = sums
        self._asked = asked
        self._ctx = ctx
        self._sizes = sizes
        self._nodes = by_result(graph)
        self._stopped = False
        self._multiple = asked.multiple or (1 if ctx.target is None else channel_multiple(ctx.target))

    def allot(self, drop: Callable[[Mapping[str, Cut]], float]) -> Allotment:
        """The cuts, as the options of the pass say; `drop` measures how much worse a network is with some cuts.

        Raises:
            Infeasible: a goal cannot be met.
            UsageError: a layer or a rank that there is not, or a goal that is priced and there is no target.
        """
        asked = self._asked
        if asked.ranks:
            return self._given()
        if asked.max_drop is not None:
            return self._within(asked.max_drop, drop)
        if asked.energy is not None or asked.ratio is not None or asked.evbmf:
            return self._each()
        return _allotment(self._plan(Goals(asked.speedup, asked.macs, asked.size, error=asked.error)))

    @cached_property
    def offered(self) -> tuple[list[Layer], dict[str, str]]:
        """The layers with what they are offered on the target, and why others are offered nothing; by their tensors."""
        prices = self._prices

        def offer(result: str) -> Layer:
            own = prices.layer(self._nodes[result], self._forms[result])
            ways = {method: partial(self._decomposed, result, method) for method in self._asked.method}
            return Layer(result, own.before, offers(own, ways, self._multiple))

        layers, left = self._of_each(offer)
        return list(layers.values()), left

    def proposals(self, error: float) -> Proposals:
        """The fastest that each layer can become within an error, and why others are left alone.

        Raises:
            UsageError: there is no target.
        """
        found: list[Proposal] = []
        layers, left = self.offered
        names = {result: edit.label(self._nodes[result]) for result in self._forms}
        reasons = {names[result]: reason for result, reason in left.items()}
        for layer in layers:
            within = [offer for offer in layer.offers if offer.error <= error]
            if within:
                best = min(within, key=lambda offer: (offer.price.latency_ms, offer.error))
                found.append(
                    Proposal(
                        names[layer.name],
                        best.method,
                        best.rank,
                        best.error,
                        layer.name in self._sums,
                        layer.before,
                        best.price,
                    )
                )
            else:
                best = min(layer.offers, key=lambda offer: offer.error)
                said = "x".join(map(str, best.rank))
                reasons[names[layer.name]] = (
                    f"every rank that pays loses more: {100 * best.error:.1f} % at least ({best.method} at {said})"
                )
        return Proposals(tuple(found), reasons, self._prices.total)

    def _plan(self, goals: Goals) -> Plan:
        """The best choice; after Ctrl-C one that meets the goals for the layers that are done, if none does for all."""
        layers, left = self.offered
        totals = [self._prices.total, *([total(layer.before for layer in layers)] if self._stopped else [])]
        beyond: list[Infeasible] = []
        for whole in totals:
            try:
                return plan(layers, whole, goals, left)
            except Infeasible as error:
                beyond.append(error)
        raise Infeasible(f"factorize: {beyond[0]}")

    def _within(self, most_lost: float, drop: Callable[[Mapping[str, Cut]], float]) -> Allotment:
        """The cuts of the largest error of all layers at which the network gets no worse than that.

        Whoever presses Ctrl-C has the largest found so far.
        """
        layers, left = self.offered
        found = Allotment({}, {**left, **{layer.name: "with it the drop would be too large" for layer in layers}})
        low, high = np.log(_LEAST), np.log(_MOST)
        for done in range(_DROPS):
            middle = float(np.exp((low + high) / 2))
            tried = _allotment(self._plan(Goals(error=middle)))
            try:
                self._ctx.progress("look for the largest error", done, _DROPS)
                keeps = drop(tried.cuts) <= most_lost
            except KeyboardInterrupt:
                break
            found, low, high = (tried, np.log(middle), high) if keeps else (found, low, np.log(middle))
        return found

    def _given(self) -> Allotment:
        """What `ranks` says. Raises UsageError for a layer or a rank that there is not."""
        cuts: dict[str, Cut] = {}
        method = self._asked.method[0]
        for text in self._asked.ranks:
            pattern, _, numbers = text.rpartition("=")
            if not pattern or not all(number.isdecimal() for number in numbers.split("x")):
                raise UsageError(f"factorize: ranks takes layer=rank, of tucker2 layer=rankxrank, not `{text}`")
            rank = tuple(int(number) for number in numbers.split("x"))
            for result in self._meant(text, pattern):
                try:
                    self._decomposed(result, method).check(rank)
                except (ValueError, Declined) as reason:
                    raise UsageError(f"factorize: ranks: `{text}`: {reason}") from None
                cuts[result] = Cut(method, rank)
        return Allotment(cuts, {})

    def _meant(self, text: str, pattern: str) -> list[str]:
        """The layers that a pattern stands for. Raises UsageError: none, or none that can be factorised."""
        nodes = {edit.label(node): node for node in self._graph.nodes}
        found = [nodes[name] for name in sorted(matching(nodes, [pattern], "factorize: ranks"))]
        results = [str(node.outputs[0].name) for node in found if node.outputs and node.outputs[0].name in self._forms]
        if not results:
            try:
                Form.of(found[0])
                reason = "it is in `skip`"
            except Declined as declined:
                reason = str(declined)
            raise UsageError(f"factorize: ranks: `{text}`: `{edit.label(found[0])}` stays whole: {reason}")
        return results

    def _each(self) -> Allotment:
        """Every layer by itself, by the method that loses least at its price, where one pays."""

        def cut(result: str) -> Cut:
            ways: list[tuple[float, Cut]] = []
            reasons: list[str] = []
            for method in self._asked.method:
                try:
                    ways.append(self._way(result, method))
                except Declined as reason:
                    reasons.append(f"{method}: {reason}")
            if not ways:
                raise Declined("; ".join(dict.fromkeys(reasons)))
            return min(ways, key=itemgetter(0))[1]

        return Allotment(*self._of_each(cut))

    def _of_each(self, work: Callable[[str], T]) -> tuple[dict[str, T], dict[str, str]]:
        """What some work makes of each layer, several at a time, and the reasons of those that it declines.

        Whoever presses Ctrl-C has those that are done; the others stay whole. A second time ends all.
        """
        found: dict[str, T] = {}
        left: dict[str, str] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = {result: pool.submit(work, result) for result in self._forms}
            for done, (result, future) in enumerate(waiting.items()):
                try:
                    while not self._stopped and not future.done():
                        self._ctx.progress("decompose layers", done, len(waiting))
                        wait([future], timeout=_LOOK)
                except KeyboardInterrupt:
                    self._stopped = True
                    self._ctx.progress("interrupted: layers under way are finished, the others stay whole", 0, 0)
                    pool.shutdown(wait=True, cancel_futures=True)
                try:
                    found[result] = future.result()
                except CancelledError:
                    left[result] = STOPPED
                except Declined as reason:
                    left[result] = str(reason)
        self._ctx.progress("decompose layers", len(waiting), len(waiting))
        return found, left

    def _way(self, result: str, method: str) -> tuple[float, Cut]:
        """A cut, with the energy lost and the share of the work left in sum. Raises Declined where it does not pay."""
        form, node = self._forms[result], self._nodes[result]
        work = Work.of(node, form, self._shapes)
        rank = self._rank(result, method, work)
        share = work.stages(skeleton(form, method, rank).stages) / max(work.layer(form), 1)
        said = "x".join(map(str, rank))
        if share >= 1:
            raise Declined(f"rank {said} has no fewer multiply-accumulates")
        if self._ctx.target is not None:
            prices = self._prices.layer(node, form)
            before, after = prices.before, prices.after(method, rank)
            if not pays(before, after):
                times = after.latency_ms / before.latency_ms if before.latency_ms > 0 else np.inf
                raise Declined(f"rank {said} would take {times:.2f} times as long on {self._ctx.target.name}")
        found = self._decomposed(result, method)
        rank = tuple(map(min, rank, found.full))
        return found.error(rank) + share, Cut(method, rank, found.factors(rank))

    def _rank(self, result: str, method: str, work: Work) -> Rank:
        """The rank that the options ask for. Raises Declined where there is none."""
        asked, form = self._asked, self._forms[result]
        if asked.ratio is not None:
            return rank_by_ratio(form, method, work, 1 - asked.ratio, self._step(form))
        if asked.energy is not None:
            rank = rank_by_energy(self._decomposed(result, method), asked.energy)
        else:
            rank = ranks_by_evbmf(form, method)
        step, full = self._step(form), most(form, method)
        return tuple(min(-(-own // step) * step, limit) for own, limit in zip(rank, full, strict=True))

    def _step(self, form: Form) -> int:
        """The least rank whose channels in all groups are a multiple of what kernels like."""
        return self._multiple // int(np.gcd(self._multiple, form.groups))

    def _decomposed(self, result: str, method: str) -> Decomposition:
        """A layer by a method. Raises Declined."""
        own = self._sums.get(result)
        moments = None if own is None else own.gram.astype(np.float64)
        return decompose(method, self._forms[result], moments, self._asked.cache)

    @cached_property
    def _shapes(self) -> Any:
        return bind(self._graph, self._sizes)

    @cached_property
    def _prices(self) -> Prices:
        if self._ctx.target is None:
            raise UsageError("factorize: a goal for the whole network is priced on a target: give one")
        return Prices(self._graph, self._ctx.target, self._sizes)


def _allotment(found: Plan) -> Allotment:
    return Allotment({name: Cut(own.method, own.rank) for name, own in found.choices.items()}, found.left)
