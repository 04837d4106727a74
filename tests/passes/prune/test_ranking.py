from __future__ import annotations

import numpy as np
import pytest

from lpcc.analysis.groups import channel_groups
from lpcc.passes.prune.ranking import Ranking

_RNG = np.random.default_rng(4)
BODY = """(float[N,2,5,5] x) => (float[N,3,5,5] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) e = Add(r, c) t = Relu(e) d = Conv(t, u) y = Conv(d, k) }"""


@pytest.fixture
def found(network):
    """Of two groups that can go: a stream of four that `a` and `c` make, and five that `d` makes."""
    shapes = {"w": (4, 2, 1, 1), "v": (4, 4, 1, 1), "u": (5, 4, 1, 1), "k": (3, 5, 1, 1)}
    return channel_groups(network(BODY, **{name: _RNG.standard_normal(shape) for name, shape in shapes.items()}))


def test_the_lowest_go_first(found):
    scores = np.full(found.count, np.nan)
    stream, last = found.labels["a"][1], found.labels["d"][1]
    scores[stream], scores[last] = [3, 1, 2, 1], [5, 4, 3, 2, 1]
    ranking = Ranking.of(found, scores, ())
    assert [(group.name, group.layers, len(group)) for group in ranking.groups] == [
        ("a", ("a", "c"), 4),
        ("d", ("d",), 5),
    ]
    np.testing.assert_array_equal(ranking.groups[0].order, stream[[1, 3, 2, 0]])  # of equal ones the first
    np.testing.assert_array_equal(ranking.groups[1].order, last[::-1])
    assert ranking.size == 9
    assert ranking.refused == {}
    np.testing.assert_array_equal(ranking.channels({"d": 2, "a": 1}), sorted([stream[1], last[4], last[3]]))
    assert len(ranking.channels({})) == len(ranking.channels({"a": 0})) == 0
    assert ranking.channels({}).dtype == np.intp


def test_groups_that_are_skipped_or_not_known(found):
    scores = np.ones(found.count)
    assert [group.name for group in Ranking.of(found, scores, ["c"]).groups] == ["d"]
    assert Ranking.of(found, scores, ["c", "d"]).groups == ()
    assert Ranking.of(found, scores, ["c", "d"]).size == 0
    scores[found.labels["d"][1][2]] = np.nan
    ranking = Ranking.of(found, scores, ())
    assert [group.name for group in ranking.groups] == ["a"]
    assert "says nothing" in ranking.refused["d"]


def test_pinned_groups_are_not_there(found):
    ranking = Ranking.of(found, np.ones(found.count), ())
    assert all(group.group.pinned is None for group in ranking.groups)
    pinned = {channel for group in found.groups if group.pinned for channel in group.channels}
    assert not pinned.intersection(ranking.channels({"a": 4, "d": 5}).tolist())


def test_parts_of_a_stream_that_one_layer_makes_have_names_of_their_own(network):
    """What is split in two falls into two groups."""
    body = """(float[N,2,5,5] x) => (float[N,3,5,5] y, float[N,3,5,5] z)
    { a = Conv(x, w) b, c = Split<axis=1>(a, s) r = Relu(b) y = Conv(r, u) z = Conv(c, k) }"""
    graph = network(
        body,
        13,
        w=_RNG.standard_normal((7, 2, 1, 1)),
        s=np.array([4, 3]),
        u=np.ones((3, 4, 1, 1)),
        k=np.ones((3, 3, 1, 1)),
    )
    found = channel_groups(graph)
    ranking = Ranking.of(found, np.ones(found.count), ())
    assert [(group.name, len(group)) for group in ranking.groups] == [("a#1", 4), ("a#2", 3)]
    assert sorted(ranking.by_name) == ["a#1", "a#2"]
    scores = np.ones(found.count)
    scores[found.labels["b"][1][0]] = np.nan
    ranking = Ranking.of(found, scores, ())
    assert [group.name for group in ranking.groups] == ["a#2"]
    assert list(ranking.refused) == ["a#1"]
