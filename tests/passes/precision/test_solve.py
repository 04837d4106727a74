"""From prices of single layers to a network that keeps to what was asked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.precision.solve import Choices, Outcome, least_bytes, least_damage, options_of
from lpcc.search import Infeasible

FREE = math.inf


def choices(*layers: tuple[float, float]) -> Choices:
    """Layers of so many bytes in 8 bits, with so much damage in 4; nothing else to choose."""
    sizes = {f"l{i}": size for i, (size, _) in enumerate(layers)}
    damages = {f"l{i}": damage for i, (_, damage) in enumerate(layers)}
    return options_of(
        list(sizes),
        ["8", "4"],
        lambda layer, choice: damages[layer] if choice == "4" else 0.0,
        lambda layer, choice: int(sizes[layer]) // (2 if choice == "4" else 1),
        {},
    )


def network(options: Choices, fixed: float = 0.0, changed=lambda damage: 0.0):
    """What a network of exactly these prices takes, and `fixed` bytes that no sum knows of for each 4."""

    def outcome(assignment):
        picked = [options.options[place][assignment[layer]] for place, layer in enumerate(options.layers)]
        extra = fixed * sum(choice == "4" for choice in assignment.values())
        return Outcome(1000 + sum(p["bytes"] for p in picked) + extra, 0.0, changed(sum(p["damage"] for p in picked)))

    return outcome


def test_the_layer_that_minds_least_gives_its_bits():
    options = choices((100, 3.0), (100, 1.0), (100, 2.0))
    found = least_damage(options, Outcome(1000, 0, 0), Outcome(950, FREE, FREE), network(options))
    assert found == {"l0": "8", "l1": "4", "l2": "8"}


def test_bytes_that_no_sum_knew_of_tighten_the_limit():
    options = choices((100, 3.0), (100, 1.0), (100, 2.0))
    outcome = network(options, fixed=1.0)
    found = least_damage(options, Outcome(1000, 0, 0), Outcome(950, FREE, FREE), outcome)
    assert found == {"l0": "8", "l1": "4", "l2": "4"}
    assert outcome(found).bytes <= 950


def test_what_can_never_be_met_is_an_error():
    options = choices((100, 3.0))
    with pytest.raises(Infeasible, match="no choice keeps bytes"):
        least_damage(options, Outcome(1000, 0, 0), Outcome(900, FREE, FREE), network(options))
    with pytest.raises(Infeasible):
        least_damage(options, Outcome(1000, 0, 0), Outcome(960, FREE, FREE), network(options, fixed=20.0))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(2, 1000), st.floats(0.001, 10)), min_size=1, max_size=6), st.floats(0.05, 1.2))
def test_smallest_within_the_changes_allowed(layers, share):
    """Where classes change as the damage says, the bisection comes close to the best and never breaks the limit."""
    options = choices(*layers)
    whole = sum(damage for _, damage in layers)
    outcome = network(options, changed=lambda damage: damage)
    goal = Outcome(FREE, FREE, share * whole)
    found = least_bytes(options, Outcome(1000, 0, 0), goal, outcome)
    assert outcome(found).changed <= goal.changed * (1 + 1e-9)
    best = options.best("bytes", {"damage": goal.changed * 0.95})
    assert outcome(found).bytes <= outcome(best).bytes
    if share >= 1.000001:
        assert set(found.values()) == {"4"}


def test_changes_that_no_choice_avoids_are_an_error():
    options = choices((100, 3.0))
    with pytest.raises(Infeasible, match="even with the least damage"):
        least_bytes(options, Outcome(1000, 0, 0), Outcome(FREE, FREE, 1.0), network(options, changed=lambda _: 2.0))


def sociable(found) -> float:
    """Noise of a network in which each border between 16 and 8 bits undoes what 16 bits gain; float has none."""
    kinds = set(found.values()) - {"float"}
    return 5.0 if kinds == {"16", "8"} else 1.0 * len([c for c in found.values() if c == "8"])


def with_sixteen(layers: int, ms: dict[str, float]) -> Choices:
    """Layers whose damage is greatest in 8 bits and which take the same bytes, and `ms` over 8 bits."""
    names = [f"l{i}" for i in range(layers)]
    damages = {"16": 0.1, "8": 1.0, "float": 0.0}
    latency = {(name, choice): value for name in names for choice, value in ms.items()}
    return options_of(names, list(damages), lambda _, choice: damages[choice], lambda *_: 100, latency)


def timed(options: Choices):
    def outcome(found):
        ms = sum(options.options[0][choice]["ms"] for choice in found.values())
        return Outcome(1000, 100 + ms, 0.0, sociable(found))

    return outcome


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (112, {"16": 4}),  # the sum of damages has one in float, three of 16 bits and so on; all alike is quieter
        (106, {"float": 1, "8": 3}),  # in the sum of damages 16 bits and 8 bits side by side are best
    ],
)
def test_what_is_quietest_as_a_whole_is_taken(most, expected):
    options = with_sixteen(4, {"16": 3.0, "8": 0.0, "float": 6.0})
    goal = Outcome(FREE, most, FREE)
    base = Outcome(1000, 100, 0)
    by_sum = options.best("damage", {"ms": most - 100})
    found = least_damage(options, base, goal, timed(options))
    assert timed(options)(found).ms <= most
    assert sociable(found) <= sociable(by_sum)
    assert {choice: list(found.values()).count(choice) for choice in set(found.values())} == expected


def test_a_faster_network_may_be_quieter():
    """What no sum of damages knows: the first layer alone in 8 bits is loud, with the second it is not."""
    options = options_of(
        ["l0", "l1", "l2"],
        ["8", "float"],
        lambda layer, choice: {"l0": 1.0, "l1": 2.0, "l2": 8.0}[layer] * (choice == "8"),
        lambda *_: 100,
        {(layer, "float"): 10.0 for layer in ("l0", "l1", "l2")},
    )

    def outcome(found):
        eight = [layer for layer, choice in found.items() if choice == "8"]
        noise = {("l0",): 5.0, ("l0", "l1"): 1.0}.get(tuple(eight), 9.0)
        return Outcome(300, 130 - 10 * len(eight), 0.0, noise)

    assert options.best("damage", {"ms": 20.0})["l1"] == "float"
    found = least_damage(options, Outcome(300, 100, 0), Outcome(FREE, 120, FREE), outcome)
    assert found == {"l0": "8", "l1": "8", "l2": "float"}


def test_one_choice_for_all_does_where_sums_of_prices_find_nothing():
    """Each border between choices costs what no sum knows of."""
    options = choices((100, 1.0), (100, 2.0))

    def outcome(found):
        extra = 500.0 if len(set(found.values())) > 1 else 0.0
        return Outcome(1000 - 50 * list(found.values()).count("4") + extra, 0.0, sum(c == "4" for c in found.values()))

    found = least_damage(options, Outcome(1000, 0, 0), Outcome(950, FREE, FREE), outcome)
    assert found == {"l0": "4", "l1": "4"}
    assert least_bytes(options, Outcome(1000, 0, 0), Outcome(FREE, FREE, 0.5), outcome) == {"l0": "8", "l1": "8"}


def test_least_bytes_of_one_choice_where_the_least_damage_changes_too_much():
    """Sums of damages say 8 bits; the network itself says 4."""
    options = choices((100, 3.0), (100, 3.0))

    def outcome(found):
        return Outcome(1000 - 50 * list(found.values()).count("4"), 0.0, 0.0 if set(found.values()) == {"4"} else 9.0)

    goal = Outcome(FREE, FREE, 1.0)
    assert least_bytes(options, Outcome(1000, 0, 0), goal, outcome) == {"l0": "4", "l1": "4"}


def test_damages_too_small_for_the_bytes_asked_are_passed_over():
    """Some layer must give its bits, so that no sum below its damage can be met."""
    options = choices((100, 1.0), (100, 2.0))
    goal = Outcome(950, FREE, 1.5)
    found = least_bytes(options, Outcome(1000, 0, 0), goal, network(options, changed=lambda damage: damage))
    assert found == {"l0": "4", "l1": "8"}
    with pytest.raises(Infeasible):
        least_bytes(options, Outcome(1000, 0, 0), replace(goal, changed=0.5), network(options, changed=lambda d: d))
