"""The choice over all layers: within the goals, of least damage, and never for a layer that gets slower."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.cost import Totals
from lpcc.passes.factorize.ranks.planning import Goals, Layer, Offer, pays, plan
from lpcc.search import Infeasible


def price(share, base=1.0):
    return Totals(share * base, share * base, round(1000 * share * base), round(10_000 * share * base))


@st.composite
def networks(draw):
    layers = []
    for place in range(draw(st.integers(0, 4))):
        base = draw(st.floats(0.1, 3))
        offers = tuple(
            Offer(
                "bmd",
                (rank,),
                draw(st.floats(0, 1)),
                Totals(
                    base * draw(st.floats(0.05, 1.5)),
                    base * draw(st.floats(0.05, 1.5)),
                    draw(st.integers(1, 2000)),
                    draw(st.integers(1, 20_000)),
                ),
            )
            for rank in range(1, draw(st.integers(0, 4)) + 1)
        )
        layers.append(Layer(f"layer{place}", price(1, base), offers, draw(st.sampled_from([1.0, 1.0, 0.3, 0.0]))))
    rest = draw(st.floats(0, 2))
    total = Totals(
        sum(layer.before.latency_ms for layer in layers) + rest + 0.01,
        sum(layer.before.energy_mj for layer in layers) + rest + 0.01,
        sum(layer.before.weight_bytes for layer in layers) + 10,
        sum(layer.before.macs for layer in layers) + 10,
    )
    return layers, total


goals = st.builds(
    Goals,
    speedup=st.none() | st.floats(1, 4),
    macs=st.none() | st.floats(0.1, 1),
    size=st.none() | st.floats(0.1, 1),
    energy=st.none() | st.floats(0.1, 1),
    error=st.none() | st.floats(0, 1),
)


def possible(layers, total, asked):
    """All choices that are clearly within the goals: damage and latency of each."""
    limits = asked.limits(total)
    budget = math.inf if asked.error in (None, 1.0) else -math.log1p(-asked.error)
    options = [
        [None, *(offer for offer in layer.offers if offer.error < 1 and pays(layer.before, offer.price))]
        for layer in layers
    ]
    for chosen in product(*options):
        pairs = [(layer, offer) for layer, offer in zip(layers, chosen, strict=True) if offer is not None]
        damage = sum(-layer.weight * math.log1p(-offer.error) for layer, offer in pairs)
        cost = {
            name: getattr(total, name)
            + sum(getattr(offer.price, name) - getattr(layer.before, name) for layer, offer in pairs)
            for name in ("latency_ms", "energy_mj", "weight_bytes", "macs")
        }
        inside = all(cost[name] <= limit - 1e-6 * getattr(total, name) for name, limit in limits.items())
        if inside and damage <= max(0.0, budget - 1e-6):
            yield damage, cost["latency_ms"]


@settings(max_examples=300, deadline=None)
@given(networks(), goals)
def test_is_the_best_of_all(network, asked):
    layers, total = network
    every = list(possible(layers, total, asked))
    try:
        found = plan(layers, total, asked)
    except Infeasible:
        assert not every
        return
    by_name = {layer.name: layer for layer in layers}
    assert set(found.choices) | set(found.left) == set(by_name)
    assert not set(found.choices) & set(found.left)
    for name, choice in found.choices.items():
        assert choice.after.latency_ms < choice.before.latency_ms
        assert choice.before == by_name[name].before
    for name, limit in asked.limits(total).items():
        assert getattr(found.total, name) <= limit * (1 + 1e-6) + 1
    damage = sum(-by_name[name].weight * math.log1p(-choice.error) for name, choice in found.choices.items())
    if asked.error is None:
        assert damage <= min((each[0] for each in every), default=math.inf) + 1e-6
    else:
        assert found.total.latency_ms <= min((each[1] for each in every), default=math.inf) + 1e-6
        assert asked.error >= 1 or damage <= -math.log1p(-asked.error) + 1e-6


def layer(name, *offers, before=1.0, weight=1.0):
    return Layer(
        name, price(before), tuple(Offer("bmd", (k + 1,), e, price(s)) for k, (e, s) in enumerate(offers)), weight
    )


def test_damage_goes_where_it_reaches_the_outputs_least():
    layers = [layer("loud", (0.1, 0.5)), layer("quiet", (0.2, 0.5), weight=0.1)]
    found = plan(layers, price(2), Goals(speedup=1.3))
    assert list(found.choices) == ["quiet"]
    assert found.left == {"loud": "the goals are better met without it"}
    assert found.total == price(1.5)


def test_a_layer_that_loses_everything_is_no_way_to_spare_others():
    # summed errors 1.0 against 1.2: the first would win if errors were merely added
    layers = [layer("a", (1.0, 0.1), (0.4, 0.5)), layer("b", (0.4, 0.5)), layer("c", (0.4, 0.5))]
    found = plan(layers, price(3), Goals(macs=0.71))
    assert found.error < 1
    assert {name: choice.error for name, choice in found.choices.items()} == dict.fromkeys(found.choices, 0.4)
    assert found.error == pytest.approx(1 - 0.6 ** len(found.choices))


def test_what_gets_slower_is_left_alone_whatever_the_goals():
    small = Offer("cpd", (1,), 0.0, Totals(1.2, 0.1, 1, 1))
    layers = [Layer("a", price(1), (small,))]
    with pytest.raises(Infeasible, match=r"macs=0.5 cannot be met.*the best that ranks allow is macs=1$"):
        plan(layers, price(1), Goals(macs=0.5))
    assert plan(layers, price(1), Goals(macs=1.0)).left == {"a": "no option saves time"}


def test_says_the_best_that_can_be_reached():
    layers = [layer("a", (0.1, 0.5)), layer("b", (0.1, 0.9))]
    with pytest.raises(Infeasible) as raised:
        plan(layers, price(4), Goals(speedup=2.0, size=0.5))
    assert str(raised.value) == (
        "speedup=2 and size=0.5 cannot be met: "
        "the best that ranks allow is speedup=1.17 (4.000 -> 3.400 ms) with size=0.85"
    )
    with pytest.raises(Infeasible, match=r"cannot be met within error=0.15: .* speedup=1.14 \(4.000 -> 3.500 ms\)"):
        plan(layers, price(4), Goals(speedup=2.0, error=0.15))


def test_within_an_error_the_fastest():
    layers = [layer("a", (0.1, 0.5), (0.02, 0.8)), layer("b", (0.1, 0.9), (0.3, 0.2))]
    found = plan(layers, price(2), Goals(error=0.12), {"c": "why"})
    assert {name: choice.rank for name, choice in found.choices.items()} == {"a": (1,)}
    assert found.left == {"c": "why", "b": "the goals are better met without it"}
    assert found.error == pytest.approx(0.1)


def test_many_layers_are_quick():
    rng = np.random.default_rng(0)
    layers = []
    for place in range(54):
        base = float(rng.uniform(0.2, 2))
        offers = []
        for method in range(3):
            for rank in range(1, 13):
                share = rank / 13 * float(rng.uniform(0.9, 1.1))
                error = float(np.exp(-rank / 3) * rng.uniform(0.3, 1.0))
                offers.append(Offer(f"m{method}", (rank,), error, price(share, base)))
        layers.append(Layer(str(place), price(1, base), tuple(offers)))
    total = price(sum(each.before.latency_ms for each in layers) + 3)
    found = plan(layers, total, Goals(speedup=1.7, size=0.8))
    assert total.latency_ms / found.total.latency_ms >= 1.7 - 1e-9
    assert found.total.weight_bytes <= 0.8 * total.weight_bytes + 1
