from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.passes.quantize.min_cut import Choice, Wire, cheapest

COSTS = st.integers(0, 20).map(float)


@st.composite
def problems(draw):
    count = draw(st.integers(1, 6))
    choices = {i: Choice(draw(COSTS), draw(COSTS)) for i in range(count)}
    ends = st.one_of(st.none(), st.integers(0, count - 1))
    wires = [
        Wire(draw(ends), draw(st.lists(ends, max_size=3)), draw(COSTS), draw(COSTS))
        for _ in range(draw(st.integers(0, 7)))
    ]
    return choices, wires


def total(choices, wires, kept):
    spent = sum(c.on_integers if key in kept else c.in_float for key, c in choices.items())
    for wire in wires:
        if wire.maker in kept and any(reader not in kept for reader in wire.readers):
            spent += wire.to_float
        if wire.maker not in kept and any(reader in kept for reader in wire.readers):
            spent += wire.to_integers
    return spent


@settings(deadline=None)
@given(problems())
def test_nothing_is_cheaper(problem):
    choices, wires = problem
    found = total(choices, wires, cheapest(choices, wires))
    sides = product((False, True), repeat=len(choices))
    best = min(total(choices, wires, {i for i, kept in enumerate(side) if kept}) for side in sides)
    assert found <= best + 1e-4 * (1 + best)


def test_a_tensor_is_converted_once_for_all_its_readers():
    readers = {i: Choice(in_float=3.0, on_integers=0.0) for i in range(3)}
    assert cheapest(readers, [Wire(None, list(readers), to_integers=8.0, to_float=0.0)]) == set(readers)
    assert cheapest(readers, [Wire(None, [i], to_integers=8.0, to_float=0.0) for i in readers]) == set()


def test_what_is_in_between_follows():
    choices = {"a": Choice(9.0, 1.0), "b": Choice(1.0, 2.0), "c": Choice(9.0, 1.0)}
    near = [Wire("a", ["b"], 1.0, 1.0), Wire("b", ["c"], 1.0, 1.0)]
    assert cheapest(choices, near) == {"a", "b", "c"}
    assert cheapest(choices | {"b": Choice(1.0, 4.0)}, near) == {"a", "c"}
