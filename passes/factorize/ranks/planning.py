"""One choice over all layers: which are factorised, by which method, at which ranks.

With e(l) the share of the energy of layer l's output that an option loses, and w(l) how much of that reaches the
network's outputs, the damage of a plan is

    sum over l of  w(l) * -log(1 - e(l)),    with w = 1  the same as  -log  of  prod over l of (1 - e(l))

Each layer hands on 1 - e of the energy that it should, to layers that hand on their share of that: the product of what
the layers keep is what Zhang et al. (2015, arXiv 1505.06798) found to predict the loss of accuracy, and they choose
ranks by its greatest value for so many multiply-accumulates. For small errors it is their sum, as noise of independent
sources adds up; unlike the sum it does not trade a layer that loses everything for a few that lose nothing.

All layers are chosen at the same time, by a multiple-choice knapsack (`lpcc.search.choose`), not greedily.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from lpcc.cost import Totals
from lpcc.passes.factorize.factors import Rank
from lpcc.passes.factorize.form import Declined
from lpcc.passes.factorize.methods.base import Decomposition
from lpcc.passes.factorize.ranks.options import candidates
from lpcc.passes.factorize.ranks.prices import LayerPrices
from lpcc.search import Infeasible, choose

_PAYS: Final = 0.98
"""Share of a layer's time that an option may take at most: less than that no prediction tells."""

_ROUNDING: Final = 1e-9
"""Share of what a network costs by which a goal may be missed."""
_MEASURED: Final = 5
"""Ranks at which an error that takes long is measured."""
_TINY: Final = 1e-12

_OPTIONS: Final = {"latency_ms": "speedup", "macs": "macs", "weight_bytes": "size", "energy_mj": "energy"}


@dataclass(frozen=True)
class Offer:
    """What a layer can become: a method, its ranks, the share of the output's energy that is lost, and the price."""

    method: str
    rank: Rank
    error: float
    price: Totals


@dataclass(frozen=True)
class Layer:
    """A layer to plan: its price as it is, what it can become, and how much of its noise reaches the outputs."""

    name: str
    before: Totals
    offers: tuple[Offer, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Goals:
    """What a network may cost, as shares of what it costs, and how much damage may be done; None: does not matter.

    `error` is the largest ``1 - prod over layers of (1 - error)``; where it is given, the plan is the fastest within
    all goals, else the one of least damage.
    """

    speedup: float | None = None
    macs: float | None = None
    size: float | None = None
    energy: float | None = None
    error: float | None = None

    def limits(self, total: Totals) -> dict[str, float]:
        """The most of each quantity of a network that costs `total` now."""
        shares = {
            "latency_ms": None if self.speedup is None else 1 / self.speedup,
            "macs": self.macs,
            "weight_bytes": self.size,
            "energy_mj": self.energy,
        }
        return {name: share * getattr(total, name) for name, share in shares.items() if share is not None}


@dataclass(frozen=True)
class Choice:
    """What is made of a layer, and its price before and after."""

    method: str
    rank: Rank
    error: float
    before: Totals
    after: Totals


@dataclass(frozen=True)
class Plan:
    """By the names of layers: what is made of them, and why others are left alone; and what the network will cost."""

    choices: Mapping[str, Choice]
    left: Mapping[str, str]
    total: Totals

    @property
    def error(self) -> float:
        """``1 - prod over layers of (1 - error)``."""
        return 1 - math.prod(1 - choice.error for choice in self.choices.values())


def offers(prices: LayerPrices, methods: Mapping[str, Callable[[], Decomposition]], multiple: int) -> tuple[Offer, ...]:
    """What a layer can become by some methods, in ranks that suit kernels of `multiple` channels; all save time.

    `methods` has a function for each that decomposes the layer; it is called only where some rank pays. Of a layer of
    one pixel all methods make the same, its SVD: that or the first of them stands for all.

    Raises:
        Declined: nothing pays on the target, or every method fails. The message is the reason.
    """
    if prices.form.is_pointwise:
        only = "svd" if "svd" in methods else next(iter(methods))
        methods = {only: methods[only]}
    paying = {name: _paying(prices, name, multiple) for name in methods}
    if not any(paying.values()):
        raise Declined(_reason(prices, methods, multiple))
    found: list[Offer] = []
    reasons: list[str] = []
    for name, ranks in paying.items():
        if not ranks:
            continue
        try:
            decomposed = methods[name]()
            full = decomposed.full
        except Declined as reason:
            reasons.append(f"{name}: {reason}")
            continue
        cut = [tuple(map(min, rank, full)) for rank in ranks]
        errors = _errors(decomposed, list(dict.fromkeys(cut)), reasons)
        for rank, error in errors.items():
            price = prices.after(name, rank)
            if pays(prices.before, price):
                found.append(Offer(name, rank, min(max(error, 0.0), 1.0), price))
    if not found:
        raise Declined("; ".join(dict.fromkeys(reasons)) or _reason(prices, methods, multiple))
    return tuple(found)


def _errors(found: Decomposition, ranks: Sequence[Rank], reasons: list[str]) -> dict[Rank, float]:
    """What is lost at some ranks, ascending; those at which the method fails are left out, and `reasons` says why.

    Where an error takes long it is measured at a few ranks. The others lie on straight lines between these, the
    logarithm of the error over that of the rank.
    """
    exact = ranks
    if not found.is_quick and len(found.full) == 1 and len(ranks) > _MEASURED:
        places = np.unique(np.linspace(0, len(ranks) - 1, _MEASURED).round().astype(int))
        exact = [ranks[place] for place in places]
    errors: dict[Rank, float] = {}
    for rank in exact:
        try:
            errors[rank] = found.error(rank)
        except Declined as reason:
            reasons.append(f"{found.name} at rank {_said(rank)}: {reason}")
    if len(exact) == len(ranks) or not errors:
        return errors
    known = np.log([rank[0] for rank in errors])
    lost = np.log(np.maximum(list(errors.values()), _TINY))
    inside = [rank for rank in ranks if min(errors) <= rank <= max(errors)]
    return {rank: float(np.exp(np.interp(np.log(rank[0]), known, lost))) for rank in inside}


def pays(before: Totals, after: Totals) -> bool:
    """Whether an option saves enough of a layer's time to be looked at."""
    return after.latency_ms <= _PAYS * before.latency_ms and after.latency_ms < before.latency_ms


def plan(layers: Sequence[Layer], total: Totals, goals: Goals, left: Mapping[str, str] | None = None) -> Plan:
    """The best choice for all layers of a network that costs `total` now; `left` are layers left alone already, why.

    An option that saves no time, or loses all that a layer says, is never chosen, whatever the goals.

    Raises:
        Infeasible: the goals cannot be met; says what can.
    """
    offered = [
        [offer for offer in layer.offers if offer.error < 1 and pays(layer.before, offer.price)] for layer in layers
    ]
    groups = [
        [_change(layer, None), *(_change(layer, offer) for offer in own)]
        for layer, own in zip(layers, offered, strict=True)
    ]
    asked = goals.limits(total)
    # Differences: what is not factorised is on neither side.
    limits = {name: limit - (1 - _ROUNDING) * getattr(total, name) for name, limit in asked.items()}
    damage = {} if goals.error is None else {"damage": -math.log1p(-goals.error) if goals.error < 1 else math.inf}
    bounded = {name: limit for name, limit in {**limits, **damage}.items() if math.isfinite(limit)}
    try:
        chosen = choose(groups, "damage" if goals.error is None else "latency_ms", bounded)
    except Infeasible:
        raise Infeasible(_beyond(groups, total, asked, goals, damage)) from None
    choices: dict[str, Choice] = {}
    reasons = dict(left or {})
    for layer, own, place in zip(layers, offered, chosen, strict=True):
        if place:
            offer = own[place - 1]
            choices[layer.name] = Choice(offer.method, offer.rank, offer.error, layer.before, offer.price)
        else:
            reasons[layer.name] = "the goals are better met without it" if own else "no option saves time"
    return Plan(choices, reasons, _sum(groups, chosen, total))


def total(parts: Iterable[Totals]) -> Totals:
    """The sum of some prices."""
    found = list(parts)
    return Totals(
        math.fsum(part.latency_ms for part in found),
        math.fsum(part.energy_mj for part in found),
        sum(part.weight_bytes for part in found),
        sum(part.macs for part in found),
    )


def _paying(prices: LayerPrices, method: str, multiple: int) -> list[Rank]:
    """The candidates that save time, without those that a larger rank, which loses less, beats in every price."""
    priced = _priced(prices, method, multiple)
    good = [(rank, price) for rank, price in priced if pays(prices.before, price)]
    return [
        rank
        for rank, price in good
        if not any(
            other != rank
            and all(more >= own for more, own in zip(other, rank, strict=True))
            and all(getattr(rival, name) <= getattr(price, name) for name in _OPTIONS)
            for other, rival in good
        )
    ]


def _priced(prices: LayerPrices, method: str, multiple: int) -> list[tuple[Rank, Totals]]:
    found: list[tuple[Rank, Totals]] = []
    for rank in candidates(prices.form, method, prices.work, multiple):
        try:
            found.append((rank, prices.after(method, rank)))
        except Declined:
            continue
    return found


def _reason(prices: LayerPrices, methods: Mapping[str, object], multiple: int) -> str:
    """Why a layer is left alone that no rank makes faster."""
    priced = [(price.latency_ms, name, rank) for name in methods for rank, price in _priced(prices, name, multiple)]
    if not priced:
        return f"no rank that suits {multiple} channels at a time has fewer multiply-accumulates than it"
    latency, name, rank = min(priced)
    share = latency / prices.before.latency_ms if prices.before.latency_ms > 0 else math.inf
    return f"no rank pays on {prices.target.name}: the best, {name} at {_said(rank)}, takes {share:.2f} times as long"


def _said(rank: Rank) -> str:
    return " and ".join(map(str, rank))


def _change(layer: Layer, offer: Offer | None) -> dict[str, float]:
    """What an option adds to each quantity of the network; none: the layer stays."""
    if offer is None:
        return dict.fromkeys(_OPTIONS, 0.0) | {"damage": 0.0}
    changes = {name: float(getattr(offer.price, name) - getattr(layer.before, name)) for name in _OPTIONS}
    return changes | {"damage": layer.weight * -math.log1p(-offer.error)}


def _sum(groups: Sequence[Sequence[Mapping[str, float]]], chosen: Sequence[int], total: Totals) -> Totals:
    def after(name: str) -> float:
        changes = (group[place][name] for group, place in zip(groups, chosen, strict=True))
        return float(getattr(total, name)) + math.fsum(changes)

    return Totals(after("latency_ms"), after("energy_mj"), round(after("weight_bytes")), round(after("macs")))


def _beyond(
    groups: Sequence[Sequence[Mapping[str, float]]],
    total: Totals,
    asked: Mapping[str, float],
    goals: Goals,
    damage: Mapping[str, float],
) -> str:
    """In words: what was asked, and the best that there is."""
    names = [name for name in asked if getattr(total, name) > 0]
    scaled = [
        [{**option, "reach": math.fsum(option[name] / getattr(total, name) for name in names)} for option in group]
        for group in groups
    ]
    finite = {name: limit for name, limit in damage.items() if math.isfinite(limit)}
    best = _sum(groups, choose(scaled, "reach", finite), total)
    wanted, found = [], []
    for name in asked:
        now, then = getattr(total, name), getattr(best, name)
        if name == "latency_ms":
            wanted.append(f"speedup={goals.speedup:g}")
            reached = math.floor(100 * now / then) / 100 if then > 0 else math.inf
            found.append(f"speedup={reached:g} ({now:.3f} -> {then:.3f} ms)")
        else:
            wanted.append(f"{_OPTIONS[name]}={getattr(goals, _OPTIONS[name]):g}")
            found.append(f"{_OPTIONS[name]}={math.ceil(1000 * then / now) / 1000 if now > 0 else 1:g}")
    within = "" if goals.error is None else f" within error={goals.error:g}"
    return f"{' and '.join(wanted)} cannot be met{within}: the best that ranks allow is {' with '.join(found)}"
