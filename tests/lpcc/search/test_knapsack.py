"""The knapsack against trying everything."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.search import Infeasible, choose, total
from lpcc.search.knapsack import _silence

numbers = st.one_of(st.integers(0, 20).map(float), st.floats(0, 1e6, allow_subnormal=False), st.floats(1e-9, 1e-3))
options = st.fixed_dictionaries({"damage": numbers, "bytes": numbers, "ms": numbers})
problems = st.lists(st.lists(options, min_size=1, max_size=4), min_size=1, max_size=5)


def best(groups, minimise, limits):
    """The least total of `minimise` within the limits, by trying all; None where there is none."""
    found = [
        total(groups, choice, minimise)
        for choice in itertools.product(*(range(len(group)) for group in groups))
        if all(total(groups, choice, name) <= limit * (1 + 1e-9) for name, limit in limits.items())
    ]
    return min(found, default=None)


@settings(max_examples=150, deadline=None)
@given(problems, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["damage", "bytes"]))
def test_as_good_as_trying_everything(groups, tightness, second, minimise):
    limited = {"damage": "bytes", "bytes": "damage"}[minimise]
    limits = {}
    for name, share in ((limited, tightness), ("ms", second)):
        least, most = (math.fsum(end(o[name] for o in group) for group in groups) for end in (min, max))
        limits[name] = least + share * (most - least)
    expected = best(groups, minimise, limits)
    if expected is None:
        with pytest.raises(Infeasible, match="no choice keeps"):
            choose(groups, minimise, limits)
        return
    found = choose(groups, minimise, limits)
    for name, limit in limits.items():
        assert total(groups, found, name) <= limit * (1 + 2e-9)
    scale = max((abs(o[minimise]) for group in groups for o in group), default=0.0)
    assert total(groups, found, minimise) == pytest.approx(expected, rel=1e-6, abs=1e-8 * scale)
    assert choose(groups, minimise, limits) == found


def test_a_limit_is_met_exactly():
    groups = [[{"damage": 1.0, "bytes": 0.1}, {"damage": 0.0, "bytes": 0.2}]] * 3
    assert choose(groups, "damage", {"bytes": 0.4}).count(1) == 1
    assert choose(groups, "damage", {"bytes": 0.3999}).count(1) == 0


def test_out_of_reach_says_what_is_possible():
    groups = [[{"damage": 0.0, "bytes": 8.0}, {"damage": 1.0, "bytes": 4.0}]] * 2
    with pytest.raises(Infeasible, match="no choice keeps bytes within 7: the least possible is 8"):
        choose(groups, "damage", {"bytes": 7.0})


def test_limits_that_exclude_each_other():
    groups = [[{"damage": 0.0, "bytes": 8.0, "ms": 1.0}, {"damage": 0.0, "bytes": 1.0, "ms": 8.0}]]
    with pytest.raises(Infeasible, match="at the same time"):
        choose(groups, "damage", {"bytes": 4.0, "ms": 4.0})


def test_options_without_a_number_are_never_chosen():
    groups = [[{"damage": math.nan, "bytes": 0.0}, {"damage": math.inf, "bytes": 0.0}, {"damage": 3.0, "bytes": 9.0}]]
    assert choose(groups, "damage", {}) == (2,)
    with pytest.raises(Infeasible, match="group 1 of 1"):
        choose([groups[0][:2]], "damage", {})


def test_the_first_of_equals_is_chosen():
    groups = [[{"damage": 1.0}, {"damage": 1.0}, {"damage": 2.0}]]
    assert choose(groups, "damage", {}) == (0,)


def test_nothing_to_choose():
    assert choose([], "damage", {"bytes": 1.0}) == ()


def test_many_layers_are_quick():
    groups = [
        [{"damage": (7 * i % 11) * k**2 / 1e3, "bytes": (100.0 + 13 * i % 97) * (4 - k)} for k in range(4)]
        for i in range(200)
    ]
    whole = sum(group[0]["bytes"] for group in groups)
    found = choose(groups, "damage", {"bytes": 0.6 * whole})
    assert total(groups, found, "bytes") <= 0.6 * whole


@pytest.mark.skipif(sys.platform == "win32", reason="no C library to ask")
def test_what_the_solver_prints_by_itself_is_not_heard(capfd):
    puts = ctypes.CDLL(None).puts
    puts(b"before")
    with _silence():
        puts(b"HighsMipSolverData::something")
        os.write(1, b"and directly\n")
    puts(b"after")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"
