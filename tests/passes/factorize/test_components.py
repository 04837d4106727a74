"""Rank components are told by their surroundings; what is left of a network with some of them is told by a formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import clone, from_proto
from lpcc.passes.factorize.components import Cost, components, kept_components
from lpcc.passes.prune import remove
from lpcc.testing.golden import read_model

HEAD = '<ir_version: 10, opset_import: ["": 17]>\n'

PAIR = """g (float[N,6,10,10] x) => (float[N,12,10,10] y)
<float[8,6,3,1] a, float[8] scale, float[8] shift, float[8] mean, float[8] var, float[12,8,1,3] b, float[12] bias>
{
    [c_bmd0] p = Conv<pads=[1,0,1,0]>(x, a)
    [norm] q = BatchNormalization(p, scale, shift, mean, var)
    [c] r = Conv<pads=[0,1,0,1]>(q, b, bias)
    [on] y = Relu(r)
}
"""
CPD = """g (float[N,6,10,10] x) => (float[N,12,5,5] y)
<float[8,6,1,1] a, float[8,1,3,1] v, float[8,1,1,3] h, float[12,8,1,1] b>
{
    [c_cpd0] p = Conv(x, a)
    [c_cpd1] q = Conv<group=8, strides=[2,1], pads=[1,0,1,0]>(p, v)
    [c_cpd2] r = Conv<group=8, strides=[1,2], pads=[0,1,0,1]>(q, h)
    [c] y = Conv(r, b)
}
"""
TUCKER = """g (float[N,6,10,10] x) => (float[N,12,8,8] y)
<float[4,6,1,1] a, float[5,4,3,3] m, float[12,5,1,1] b>
{
    [c_tucker0] p = Conv(x, a)
    [c_tucker1] q = Conv(p, m)
    [c] y = Conv(q, b)
}
"""
PRODUCT = """g (float[N,7,16] x) => (float[N,7,10] y)
<float[16,4] a, float[4,10] b>
{
    [f_svd0] p = MatMul(x, a)
    [f] y = MatMul(p, b)
}
"""
MATRIX = """g (float[N,16] x) => (float[N,10] y)
<float[16,4] a, float[10,4] b, float[10] bias>
{
    [f_svd0] p = MatMul(x, a)
    [f] y = Gemm<transB=1>(p, b, bias)
}
"""


def found_in(text, skip=()):
    """A graph, its channels and its rank components."""
    graph = from_proto(read_model(HEAD + text))
    annotate(graph)
    found = channel_groups(graph)
    return graph, found, *components(graph, found, skip)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PAIR, [("q", 1, 8, ("c_bmd0", "c"))]),
        (CPD, [("r", 1, 8, ("c_cpd0", "c_cpd1", "c_cpd2", "c"))]),
        (TUCKER, [("p", 1, 4, ("c_tucker0", "c_tucker1")), ("q", 1, 5, ("c_tucker1", "c"))]),
        (PRODUCT, [("p", 2, 4, ("f_svd0", "f"))]),
        (MATRIX, [("p", 1, 4, ("f_svd0", "f"))]),
    ],
)
def test_what_methods_leave_behind_is_found(text, expected):
    _, _, known, refused = found_in(text)
    assert [(one.tensor, one.axis, len(one), one.layers) for one in known] == expected
    assert not refused


@pytest.mark.parametrize(
    "text",
    [
        PAIR.replace("q = BatchNormalization(p, scale, shift, mean, var)", "q = Relu(p)"),
        PAIR.replace("[on] y = Relu(r)", "s = Conv<pads=[0,1,0,1]>(q, b, bias)\n y = Add(r, s)"),
        PAIR.replace("(float[N,12,10,10] y)", "(float[N,12,10,10] y, float[N,8,10,10] q)"),
    ],
    ids=["activation", "two readers", "output"],
)
def test_other_channels_are_none(text):
    _, _, known, _ = found_in(text)
    assert not known


def test_layers_to_skip_are_left_out():
    _, _, known, _ = found_in(TUCKER, ("c",))
    assert [one.tensor for one in known] == ["p"]


def test_weights_that_are_computed_cannot_take_a_gate():
    text = PAIR.replace("float[12,8,1,3] b", "int8[12,8,1,3] b, float step").replace(
        "    [c] r = Conv<pads=[0,1,0,1]>(q, b, bias)",
        "    w = DequantizeLinear(b, step)\n    [c] r = Conv<pads=[0,1,0,1]>(q, w, bias)",
    )
    _, _, known, refused = found_in(text)
    assert not known
    assert refused == {"c": "the weights that read its components are no constant of its own of a float type"}


def test_strength_is_the_norm_of_what_reads_a_component():
    graph, _, (one,), _ = found_in(PAIR)
    weight = next(node for node in graph.nodes if node.name == "c").inputs[1].values
    np.testing.assert_allclose(one.strength, np.sqrt(np.square(weight).sum(axis=(0, 2, 3))), rtol=1e-6)


@pytest.mark.parametrize("text", [PAIR, CPD, TUCKER, PRODUCT, MATRIX])
def test_the_formula_counts_what_is_left_after_removal(text):
    graph, found, known, _ = found_in(text)
    cost = Cost.of(graph, found, known)
    assert cost([1.0] * len(known)) == pytest.approx(1)
    counts = [len(one) // 2 + at for at, one in enumerate(known)]
    gone = np.concatenate([one.group.channels[count:] for one, count in zip(known, counts, strict=True)])
    smaller = clone(graph)
    remove(smaller, found, gone)
    annotate(smaller)
    left = sum(macs(smaller, bind(smaller)).values())
    shares = [count / len(one) for count, one in zip(counts, known, strict=True)]
    assert cost(shares) * cost.total == pytest.approx(left)


SCORES = st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=12).map(np.asarray), min_size=1, max_size=4)


@given(SCORES, st.floats(0, 1), st.sampled_from([1, 4]))
def test_components_above_a_level_stay_as_many_as_fit(scores, goal, step):
    allowed = [(*range(min(step, len(own)), len(own), step), len(own)) for own in scores]
    sizes = [len(own) for own in scores]

    def left(counts):
        return sum(counts) / sum(sizes)

    goal = max(goal, left([some[0] for some in allowed]))
    counts = kept_components(scores, allowed, left, goal)
    assert left(counts) <= goal
    assert all(count in some for count, some in zip(counts, allowed, strict=True))
    for at, count in enumerate(counts):  # and nothing more fits
        more = [n for n in allowed[at] if n > count]
        if more:
            assert left([more[0] if own == at else n for own, n in enumerate(counts)]) > goal


def test_the_level_is_one_for_all():
    scores = [np.array([5.0, 4.0, 3.0, -1.0]), np.array([2.0, 1.0, 0.0, -2.0])]
    allowed = [(1, 2, 3, 4)] * 2
    assert kept_components(scores, allowed, lambda counts: sum(counts) / 8, 0.5) == [3, 1]
    assert kept_components(scores, allowed, lambda counts: sum(counts) / 8, 1.0) == [4, 4]
