from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.analysis.groups import Group, Member
from lpcc.passes.prune.multiples import kept_counts
from lpcc.passes.prune.portions import Curve, by_damage, by_even_damage, by_score, lowest, on_multiples, uniform
from lpcc.passes.prune.ranking import Ranked, Ranking


def ranking_of(*sizes):
    """Groups of so many channels, which go in the order of their numbers."""
    groups, first = [], 0
    for place, size in enumerate(sizes):
        channels = np.arange(first, first + size)
        member = Member(f"t{place}", 1, np.arange(size)[:, None])
        group = Group(channels, (), (member,), (), (), None)
        groups.append(Ranked(f"g{place}", (f"g{place}",), channels, group))
        first += size
    return Ranking(tuple(groups), {})


sizes = st.lists(st.integers(1, 20), min_size=1, max_size=5)
levels = st.floats(0, 1)


@st.composite
def families(draw):
    """A ranking and one of the ways."""
    ranking = ranking_of(*draw(sizes))
    match draw(st.sampled_from(("uniform", "score", "even", "damage"))):
        case "uniform":
            return ranking, uniform(ranking)
        case "score":
            number = st.one_of(st.floats(0, 10), st.sampled_from((0.0, 1.0)))
            scores = draw(st.lists(number, min_size=ranking.size, max_size=ranking.size))
            ordered = np.concatenate([np.sort(np.array(scores)[group.order]) for group in ranking.groups])
            return ranking, by_score(ranking, ordered)
        case "even":
            return ranking, by_even_damage(ranking, {g.name: draw(curves(len(g))) for g in ranking.groups})
        case _:
            worth = {group.name: draw(st.floats(0, 2)) for group in ranking.groups}
            found = {group.name: draw(curves(len(group))) for group in ranking.groups}
            return ranking, by_damage(ranking, found, worth)


@st.composite
def curves(draw, size):
    counts = draw(st.sets(st.integers(1, size), max_size=5))
    points = {count: draw(st.one_of(st.floats(0, 5), st.just(math.inf))) for count in counts}
    return Curve.through({0: 0.0, **points})


@given(families(), levels, levels)
def test_families_never_fall_and_never_take_a_whole_group(case, one, two):
    ranking, family = case
    low, high = family(min(one, two)), family(max(one, two))
    for group in ranking.groups:
        assert 0 <= low[group.name] <= high[group.name] < max(len(group), 1)
    assert all(type(count) is int for count in high.values())


@given(families())
def test_the_highest_level_leaves_one_channel_of_each_group(case):
    ranking, family = case
    assert family(1.0) == {group.name: len(group) - 1 for group in ranking.groups}


@given(families(), st.integers(0, 100), st.integers(1, 8))
def test_a_goal_that_can_be_met_is(case, wanted, multiple):
    ranking, family = case

    def removed(counts):
        return sum(on_multiples(ranking.by_name[name], count, multiple) for name, count in counts.items())

    found = lowest(family, lambda counts: removed(counts) >= wanted)
    most = removed(family(1.0))
    assert (found is None) == (most < wanted)
    if found is not None:
        assert removed(found) >= wanted
        assert all(0 <= count < len(ranking.by_name[name]) for name, count in found.items())


@given(st.integers(1, 200), st.integers(1, 32), st.data())
def test_on_multiples_as_many_go_as_asked_about(size, multiple, data):
    (group,) = ranking_of(size).groups
    count = data.draw(st.integers(0, size - 1))
    gone = on_multiples(group, count, multiple)
    assert 0 <= gone < size
    assert size - gone in kept_counts(group.group, multiple)
    assert all(abs(gone - count) <= abs(size - kept - count) for kept in kept_counts(group.group, multiple))
    assert on_multiples(group, gone, multiple) == gone


def test_uniform_shares():
    assert uniform(ranking_of(8, 10, 1, 3))(0.3) == {"g0": 2, "g1": 3, "g2": 0, "g3": 0}
    assert uniform(ranking_of(10))(0.7) == {"g0": 7}  # 0.7 * 10 is a little less than 7


def test_scores_under_one_threshold():
    ranking = ranking_of(4, 3)
    family = by_score(ranking, np.array([1, 2, 9, 10, 3, 4, 5.0]))
    assert family(0.0) == {"g0": 0, "g1": 0}
    assert family(0.4) == {"g0": 2, "g1": 0}
    assert family(0.8) == {"g0": 2, "g1": 2}
    assert family(1.0) == {"g0": 3, "g1": 2}
    assert by_score(ranking_of(1, 1), np.ones(2))(0.5) == {"g0": 0, "g1": 0}  # none can go
    falling = by_score(ranking_of(4), np.array([3, 1, 2, 9.0]))  # in an order of its own
    assert [falling(level)["g0"] for level in (0.0, 0.5, 1.0)] == [0, 0, 3]


def test_curves():
    curve = Curve.through({0: 0.0, 4: 1.0, 2: 0.5, 6: 0.75, 8: math.inf})
    assert curve.counts == (0, 2, 4, 6, 8)
    assert curve.damages == (0.0, 0.5, 1.0, 1.0, math.inf)
    assert [curve.damage(count) for count in (0, 1, 2, 3, 4, 5, 6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert curve.damage(7) == curve.damage(8) == curve.damage(9) == math.inf
    broken = Curve.through({0: 0.0, 2: math.inf, 4: 0.3})
    assert [broken.damage(count) for count in (0, 1, 2, 3, 4)] == [0.0, *[math.inf] * 4]


def test_equal_damage_for_the_same_worth():
    ranking = ranking_of(5, 5)
    steep, flat = Curve.through({0: 0.0, 4: 4.0}), Curve.through({0: 0.0, 4: 0.4})
    alike = {"g0": 1.0, "g1": 1.0}
    family = by_damage(ranking, {"g0": steep, "g1": flat}, alike)
    assert family(0.0) == {"g0": 0, "g1": 0}
    assert family(0.5) == {"g0": 0, "g1": 4}
    assert family(1.0) == {"g0": 4, "g1": 4}
    dear = by_damage(ranking, {"g0": steep, "g1": flat}, {"g0": 100.0, "g1": 1.0})
    assert dear(0.5) == {"g0": 4, "g1": 0}  # what saves more may do more damage


def test_all_do_the_same_damage():
    steep, flat = Curve.through({0: 0.0, 4: 8.0, 8: 16.0}), Curve.through({0: 0.0, 8: 4.0})
    ranking = ranking_of(9, 9)
    family = by_even_damage(ranking, {"g0": steep, "g1": flat})
    assert family(0.0) == {"g0": 0, "g1": 0}
    assert family(0.5) == {"g0": 1, "g1": 7}  # 2 and 3.5: one more of g0 would do 4
    assert family(1.0) == {"g0": 8, "g1": 8}


def test_channels_cost_more_the_more_have_gone():
    bent = Curve.through({0: 0.0, 2: 0.0, 4: 2.0, 6: 2.0, 8: math.inf})
    slopes = bent.slopes(9)
    assert (np.diff(slopes[:6]) >= 0).all()
    assert slopes[0] == 0
    assert slopes[:6].sum() > 2
    assert np.isinf(slopes[6:]).all()
    assert np.isinf(Curve.through({0: 0.0, 3: math.inf}).slopes(4)).all()
    family = by_damage(ranking_of(9, 9), {"g0": bent, "g1": Curve.through({0: 0.0, 8: 2.0})}, {"g0": 1.0, "g1": 1.0})
    assert 0 < family(0.5)["g0"] < 6


def test_the_lowest_level_that_will_do():
    ranking = ranking_of(10, 20)
    found = lowest(uniform(ranking), lambda counts: sum(counts.values()) >= 9)
    assert found is not None
    assert sum(found.values()) in (9, 10)
    assert lowest(uniform(ranking), lambda _: True) == {"g0": 0, "g1": 0}
    assert lowest(uniform(ranking), lambda _: False) is None


@pytest.mark.parametrize("wanted", range(5))
def test_groups_that_need_not_lose_a_channel_do_not(wanted):
    """All are equal, and all would lose one at the same level."""
    ranking = ranking_of(4, 4, 4, 4)
    found = lowest(uniform(ranking), lambda counts: sum(counts.values()) >= wanted)
    assert found is not None
    assert sum(found.values()) == wanted
