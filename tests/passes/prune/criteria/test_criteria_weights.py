from __future__ import annotations

import numpy as np
import pytest

from lpcc.analysis.groups import channel_groups
from lpcc.errors import UsageError
from lpcc.graph import clone
from lpcc.passes.prune.criteria.base import averaged, relative
from lpcc.passes.prune.criteria.weights import L1, L2, BatchNormScale, GeometricMedian
from lpcc.pipeline import Context

_RNG = np.random.default_rng(0)


def rows(*values, inputs=2):
    """Weights of a 1x1 convolution whose filters have these magnitudes, all of alternating signs."""
    signs = np.resize([1.0, -1.0], inputs)
    return (np.asarray(values, dtype=float)[:, None] * signs / inputs)[:, :, None, None]


CHAIN = """(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"""


def test_magnitudes_of_filters_in_units_of_their_mean(subject):
    net = subject(CHAIN, w=rows(1, 2, 6), v=np.ones((2, 3, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "r"), np.array([1, 2, 6]) / 3)
    np.testing.assert_allclose(net.of(L2(), "r"), np.array([1, 2, 6]) / 3)


def test_the_two_norms_differ_where_weights_are_uneven(subject):
    w = np.array([[3.0, 4.0], [6.0, 0.0]])[:, :, None, None]
    net = subject(CHAIN, w=w, v=np.ones((2, 2, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "r"), np.array([7, 6]) / 6.5)
    np.testing.assert_allclose(net.of(L2(), "r"), np.array([5, 6]) / 5.5)


def test_channels_of_inputs_and_of_nothing_are_not_known(subject):
    net = subject(CHAIN, w=rows(1, 2, 6), v=np.ones((2, 3, 1, 1)))
    assert np.isnan(net.of(L1(), "x")).all()
    assert np.isfinite(net.of(L1(), "y")).all()  # pinned, but made


def test_layers_of_a_residual_stream_count_alike_however_large_their_weights(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) b = Relu(a) c = Conv(b, u) s = Add(a, c) y = Conv(s, v) }"""
    u = np.array([3.0, 2.0, 1.0])[:, None, None, None] * np.ones((3, 3, 1, 1)) * 1000
    net = subject(body, w=rows(1, 2, 6), u=u, v=np.ones((2, 3, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "s"), (np.array([1, 2, 6]) / 3 + np.array([3, 2, 1]) / 2) / 2)


def test_parts_of_a_concat_keep_the_scores_of_their_layers(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) b = Conv(x, u) c = Concat<axis=1>(a, b) y = Conv(c, v) }"""
    net = subject(body, w=rows(1, 3), u=rows(10, 20, 30), v=np.ones((2, 5, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "c"), [0.5, 1.5, 0.5, 1, 1.5])


def test_depthwise_filters_count_with_those_that_make_what_they_read(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) b = Conv<group=3>(a, u) y = Conv(b, v) }"""
    net = subject(body, w=rows(1, 2, 6), u=[[[[9.0]]], [[[-3.0]]], [[[3.0]]]], v=np.ones((2, 3, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "b"), (np.array([1, 2, 6]) / 3 + np.array([9, 3, 3]) / 5) / 2)
    d = 2 * np.abs(np.subtract.outer([1, 2, 6], [1, 2, 6])).sum(axis=1)
    np.testing.assert_allclose(
        net.of(GeometricMedian(), "b"), d / d.mean(), rtol=1e-6
    )  # the depthwise ones say nothing


def test_channels_that_go_together_from_all_groups_share_their_mean(subject):
    body = """(float[1,4,4,4] x) => (float[1,2,4,4] y) { a = Conv<group=2>(x, w) y = Conv<group=2>(a, v) }"""
    net = subject(body, w=rows(1, 2, 3, 10), v=np.ones((2, 2, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "a"), np.array([2, 6, 2, 6]) / 4)


@pytest.mark.parametrize("attributes", ["", "<transB=1>"])
def test_gemm_both_ways_round(subject, attributes):
    body = f"(float[1,2] x) => (float[1,2] y) {{ a = Gemm{attributes}(x, w, b) r = Relu(a) y = MatMul(r, v) }}"
    w = rows(1, 2, 6)[:, :, 0, 0]
    net = subject(body, w=w if attributes else w.T, b=np.zeros(3), v=np.ones((3, 2)))
    np.testing.assert_allclose(net.of(L1(), "r"), np.array([1, 2, 6]) / 3)


def test_matmul_and_transposed_convolution(subject):
    w = rows(1, 2, 6)
    net = subject(
        "(float[1,5,2] x) => (float[1,5,2] y) { a = MatMul(x, w) y = MatMul(a, v) }",
        w=w[:, :, 0, 0].T,
        v=np.ones((3, 2)),
    )
    np.testing.assert_allclose(net.of(L1(), "a", axis=2), np.array([1, 2, 6]) / 3)
    net = subject(
        "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = ConvTranspose(x, w) y = Conv(a, v) }",
        w=np.swapaxes(w, 0, 1),
        v=np.ones((2, 3, 1, 1)),
    )
    np.testing.assert_allclose(net.of(L1(), "a"), np.array([1, 2, 6]) / 3)


def test_a_filter_in_the_midst_of_the_others_is_the_least(subject):
    w = np.array([[0.0, 0.0], [3.0, 4.0], [-3.0, -4.0], [6.0, 8.0]])[:, :, None, None]
    net = subject(CHAIN, w=w, v=np.ones((2, 4, 1, 1)))
    sums = np.array([0 + 5 + 5 + 10, 5 + 10 + 5, 5 + 10 + 15, 10 + 5 + 15])
    np.testing.assert_allclose(net.of(GeometricMedian(), "r"), sums / sums.mean(), rtol=1e-6)


def test_distances_are_those_taken_one_by_one(subject):
    w = _RNG.standard_normal((600, 2, 3, 3)).astype(np.float32)
    net = subject(CHAIN, w=w, v=np.ones((2, 600, 1, 1)))
    flat = w.reshape(600, -1).astype(float)
    sums = np.array([np.linalg.norm(flat - filters, axis=1).sum() for filters in flat])
    np.testing.assert_allclose(net.of(GeometricMedian(), "r"), sums / sums.mean(), rtol=1e-6)


def test_filters_that_are_not_finite_are_not_known(subject):
    w = rows(1, 2, 6)
    w[1] = np.nan
    net = subject(CHAIN, w=w, v=np.ones((2, 3, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "r"), [1 / 3.5, np.nan, 6 / 3.5])


def test_filters_of_zeros_only(subject):
    net = subject(CHAIN, w=np.zeros((3, 2, 1, 1)), v=np.ones((2, 3, 1, 1)))
    for criterion in (L1(), L2(), GeometricMedian()):
        assert not net.of(criterion, "r").any()


def test_quantised_weights_are_not_known(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) d = DequantizeLinear(q, s) b = Conv(a, d) r = Relu(b) y = Conv(r, v) }"""
    net = subject(
        body,
        w=rows(1, 3),
        q=np.ones((3, 2, 1, 1), dtype=np.int8),
        s=np.float32(0.5),
        v=np.ones((2, 3, 1, 1)),
    )
    np.testing.assert_allclose(net.of(L1(), "a"), [0.5, 1.5])
    assert np.isnan(net.of(L1(), "r")).all()


def test_without_constant_weights_there_is_nothing_to_go_by(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y) { d = DequantizeLinear(q, s) b = Conv(x, d) y = Conv(b, v) }"""
    net = subject(body, q=np.ones((3, 2, 1, 1), dtype=np.int8), s=np.float32(0.5), v=np.ones((2, 3, 1, 1)))
    for criterion in (L1(), L2(), GeometricMedian()):
        with pytest.raises(UsageError, match="constant float weights"):
            net.scores(criterion)


def test_shared_weights_count_for_both_layers(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) n = Neg(x) b = Conv(n, w) s = Mul(a, b) y = Conv(s, v) }"""
    net = subject(body, w=rows(1, 2, 6), v=np.ones((2, 3, 1, 1)))
    np.testing.assert_allclose(net.of(L1(), "s"), np.array([1, 2, 6]) / 3)


def test_scales_of_batch_norms_before_and_behind(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) b = BatchNormalization(a, g, z, z, o) r = Relu(b)
      c = Conv(r, u) d = BatchNormalization(c, h, z, z, o) s = Add(r, d) e = Conv(s, u2) y = Conv(e, v) }"""
    net = subject(
        body,
        w=rows(1, 2, 6),
        u=np.ones((3, 3, 1, 1)),
        u2=np.ones((3, 3, 1, 1)),
        v=np.ones((2, 3, 1, 1)),
        g=[1.0, -2.0, 3.0],
        h=[0.0, 1.0, 0.5],
        z=np.zeros(3),
        o=np.ones(3),
    )
    np.testing.assert_allclose(net.of(BatchNormScale(), "s"), [0.5, 1.5, 1.75])
    assert np.isnan(net.of(BatchNormScale(), "e")).all()
    assert BatchNormScale.comparable


def test_a_batch_norm_before_its_activation_and_layer_scores_all_that_it_reads(subject):
    body = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) b = Conv(x, u) c = Concat<axis=1>(a, b) n = BatchNormalization(c, g, z, z, o) y = Conv(n, v) }"""
    g = np.array([1.0, 2.0, 3.0, -4.0])
    net = subject(body, w=rows(1, 2), u=rows(1, 2), g=g, z=np.zeros(4), o=np.ones(4), v=np.ones((2, 4, 1, 1)))
    np.testing.assert_allclose(net.of(BatchNormScale(), "c"), np.abs(g))


def test_without_batch_norms_it_says_when_to_prune(subject):
    net = subject(CHAIN, w=rows(1, 2, 6), v=np.ones((2, 3, 1, 1)))
    with pytest.raises(UsageError, match="prune before `exact`") as caught:
        net.scores(BatchNormScale())
    assert "\n" not in str(caught.value)


def test_the_order_of_the_nodes_does_not_matter(subject):
    one = """(float[1,2,4,4] x) => (float[1,2,4,4] y)
    { a = Conv(x, w) b = Conv(x, u) s = Add(a, b) y = Conv(s, v) }"""
    other = one.replace("a = Conv(x, w) b = Conv(x, u)", "b = Conv(x, u) a = Conv(x, w)")
    weights = {"w": rows(1, 2, 6), "u": _RNG.standard_normal((3, 2, 1, 1)), "v": np.ones((2, 3, 1, 1))}
    for criterion in (L1(), L2(), GeometricMedian()):
        expected, found = (subject(body, **weights).of(criterion, "s") for body in (one, other))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_graph_stays_as_it_was(subject):
    net = subject(CHAIN, w=rows(1, 2, 6), v=np.ones((2, 3, 1, 1)))
    before = [node.inputs[1].values.copy() for node in net.graph.nodes if node.op == "Conv"]
    for criterion in (L1(), L2(), GeometricMedian()):
        assert (net.scores(criterion) == criterion.scores(clone(net.graph), net.found, Context())).sum() == 5
    after = [node.inputs[1].values for node in net.graph.nodes if node.op == "Conv"]
    assert all(map(np.array_equal, before, after))


def test_averages_leave_out_what_is_not_known(subject):
    found = channel_groups(subject(CHAIN, w=rows(1, 2, 6), v=np.ones((2, 3, 1, 1))).graph)
    parts = [(np.array([0, 1, 1]), np.array([1.0, 2.0, 4.0])), (np.array([1, 2]), np.array([9.0, np.inf]))]
    np.testing.assert_allclose(averaged(parts, found)[:3], [1, 6, np.nan])
    np.testing.assert_allclose(relative(np.array([1.0, 3.0, np.nan])), [0.5, 1.5, np.nan])


@pytest.mark.parametrize("criterion", [L1(), L2(), BatchNormScale(), GeometricMedian()], ids=lambda c: c.name)
def test_on_a_real_network_the_lowest_hurt_less_than_the_highest(resnet20, criterion):
    low, high = resnet20.ends(resnet20.scores(criterion))
    assert low < 0.6 * high
