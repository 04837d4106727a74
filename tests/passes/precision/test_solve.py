"""From prices of single layers to a network that keeps to what was asked."""

from __future__ import annotations

import math

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
