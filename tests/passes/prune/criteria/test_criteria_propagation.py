from __future__ import annotations

import numpy as np
import pytest

from lpcc.errors import UsageError
from lpcc.passes.prune.criteria.propagation import Propagated

_RNG = np.random.default_rng(0)


def weights(*shape):
    return _RNG.standard_normal((*shape, 1, 1) if len(shape) == 2 else shape).astype(np.float32)


def back(w, importance):
    """Importance of what a convolution reads, from that of what it makes."""
    return np.abs(w.astype(float)).sum(axis=(2, 3)).T @ importance


def unit(importance):
    return importance / importance.mean()


def test_importance_goes_back_through_layers(subject):
    body = """(float[N,2,4,4] x) => (float[N,2] y)
    { a = Conv(x, w) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, u) p = MaxPool<kernel_shape=[2,2]>(b)
      g = GlobalAveragePool(p) f = Flatten(g) y = Gemm<transB=1>(f, v) }"""
    w, u, v = weights(3, 2), weights(4, 3, 3, 3), weights(2, 4)
    net = subject(body, w=w, u=u, v=v[:, :, 0, 0])
    last = back(v, np.ones(2))
    np.testing.assert_allclose(net.of(Propagated(), "f"), unit(last), rtol=1e-6)
    np.testing.assert_allclose(net.of(Propagated(), "r"), unit(back(u, last)), rtol=1e-6)
    np.testing.assert_allclose(net.of(Propagated(), "y"), [1, 1])
    assert np.isnan(net.of(Propagated(), "x")).all()


def test_a_residual_stream_gathers_from_all_that_read_it(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) b = Conv(a, u) r = Relu(b) c = Conv(r, t) s = Add(a, c) y = Conv(s, v) }"""
    w, u, t, v = weights(3, 2), weights(4, 3), weights(3, 4), weights(2, 3)
    net = subject(body, w=w, u=u, t=t, v=v)
    late = back(v, np.ones(2))
    inner = back(t, late)
    early = late + back(u, inner)
    np.testing.assert_allclose(net.of(Propagated(), "r"), unit(inner), rtol=1e-6)
    np.testing.assert_allclose(net.of(Propagated(), "s"), (unit(late) + unit(early)) / 2, rtol=1e-6)


def test_concat_split_and_several_outputs(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z)
    { a = Conv(x, w) b = Conv(x, u) c = Concat<axis=1>(a, b) d, e = Split<axis=1>(c, sizes)
      y = Conv(d, v) z = Conv(e, t) }"""
    w, u, v, t = weights(3, 2), weights(3, 2), weights(2, 2), weights(2, 4)
    net = subject(body, w=w, u=u, v=v, t=t, sizes=np.array([2, 4]))
    whole = np.concatenate([back(v, np.ones(2)), back(t, np.ones(2))])
    expected = np.concatenate([unit(whole[:3]), unit(whole[3:])])
    np.testing.assert_allclose(net.of(Propagated(), "c"), expected, rtol=1e-6)


def test_depthwise_grouped_and_transposed_layers(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,8,8] y)
    { a = Conv(x, w) d = Conv<group=4>(a, u) e = Conv(d, t) k = Conv<group=2>(e, q)
      y = ConvTranspose<strides=[2,2]>(k, v) }"""
    w, u, t, q, v = weights(4, 2), weights(4, 1), weights(4, 4), weights(6, 2), weights(6, 2, 2, 2)
    net = subject(body, w=w, u=u, t=t, q=q, v=v)
    last = back(np.swapaxes(v, 0, 1), np.ones(2)).reshape(2, 3)
    np.testing.assert_allclose(net.of(Propagated(), "k"), np.tile(unit(last.sum(axis=0)), 2), rtol=1e-6)
    each = np.tile(last.sum(axis=0) / 2, (2, 1))
    read = np.stack([back(q[:3], each[0]), back(q[3:], each[1])]).sum(axis=0) / 2
    np.testing.assert_allclose(net.of(Propagated(), "e"), np.tile(unit(read), 2), rtol=1e-6)
    made = back(t, np.tile(read, 2))
    before = made * np.abs(u[:, 0, 0, 0])
    np.testing.assert_allclose(net.of(Propagated(), "d"), (unit(made) + unit(before)) / 2, rtol=1e-6)


def test_batch_norms_scale_it(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) c = Conv(a, u) b = BatchNormalization<epsilon=0.5>(c, g, z, z, o) y = Conv(b, v) }"""
    u, v, g, variance = weights(3, 4), weights(2, 3), np.array([1.0, -2.0, 0.0]), np.array([0.5, 3.5, 1.0])
    net = subject(body, w=weights(4, 2), u=u, g=g, z=np.zeros(3), o=variance, v=v)
    inner = back(v, np.ones(2))
    np.testing.assert_allclose(net.of(Propagated(), "b"), unit(inner), rtol=1e-6)  # behind it, as once it is folded
    early = back(u, inner * np.abs(g) / np.sqrt(variance + 0.5))
    np.testing.assert_allclose(net.of(Propagated(), "a"), unit(early), rtol=1e-6)


def test_a_layer_with_one_output_and_gates(subject):
    body = """(float[N,2,4,4] x) => (float[N,1,4,4] y)
    { a = Conv(x, w) m = Conv(a, u) q = Sigmoid(m) s = Mul(a, q) y = Conv(s, v) }"""
    w, u, v = weights(3, 2), weights(1, 3), weights(1, 3)
    net = subject(body, w=w, u=u, v=v)
    late = np.abs(v[0, :, 0, 0])
    early = late + np.abs(u[0, :, 0, 0]) * late.sum()
    np.testing.assert_allclose(net.of(Propagated(), "a"), unit(early), rtol=1e-6)


def test_what_cannot_be_followed_hands_equal_parts_on(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) r = Relu(a) d = DequantizeLinear(q, s) b = Conv(r, d) y = Conv(b, v) }"""
    v = weights(2, 3)
    net = subject(body, w=weights(4, 2), q=np.ones((3, 4, 1, 1), dtype=np.int8), s=np.float32(1), v=v)
    np.testing.assert_allclose(net.of(Propagated(), "b"), unit(back(v, np.ones(2))), rtol=1e-6)
    np.testing.assert_allclose(net.of(Propagated(), "r"), np.ones(4))


def test_very_deep_networks_stay_within_range(subject):
    depth = 300
    w, v = weights(3, 3), weights(2, 3)
    layers = " ".join(f"a{at + 1} = Conv(a{at}, w{at})" for at in range(depth))
    body = f"(float[N,3,4,4] x) => (float[N,2,4,4] y) {{ a0 = Relu(x) {layers} y = Conv(a{depth}, v) }}"
    net = subject(body, v=v, **{f"w{at}": w * 1000 for at in range(depth)})
    expected = back(v, np.ones(2))
    for _ in range(depth - 1):
        expected = unit(back(w, expected))
    np.testing.assert_allclose(net.of(Propagated(), "a1"), unit(expected), rtol=1e-6)
    np.testing.assert_allclose(net.of(Propagated(), f"a{depth}"), unit(back(v, np.ones(2))), rtol=1e-6)


def test_the_order_of_the_nodes_does_not_matter(subject):
    one = """(float[N,2,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z)
    { a = Conv(x, w) b = Conv(a, u) s = Add(a, b) y = Conv(s, v) z = Conv(a, t) }"""
    other = one.replace(" z = Conv(a, t)", "").replace("b = Conv(a, u)", "z = Conv(a, t) b = Conv(a, u)")
    given = {"w": weights(3, 2), "u": weights(3, 3), "v": weights(2, 3), "t": weights(2, 3)}
    expected, found = (subject(body, **given).of(Propagated(), "s") for body in (one, other))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_leads_nowhere_is_not_known(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) y = Conv(a, v) b = Conv(x, u) c = Conv(b, t) }"""
    net = subject(body, w=weights(3, 2), u=weights(3, 2), v=weights(2, 3), t=weights(2, 3))
    assert np.isfinite(net.of(Propagated(), "a")).all()
    assert np.isnan(net.of(Propagated(), "b")).all()


def test_without_a_way_to_an_output_it_says_so(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { y = Relu(x) b = Conv(x, u) c = Conv(b, t) }"""
    net = subject(body, u=weights(3, 2), t=weights(2, 3))
    with pytest.raises(UsageError, match="no way"):
        net.scores(Propagated())


@pytest.mark.parametrize("name", ["mobilenetv2_imagenet", "fastestdet_coco", "ppocr_mobile_v2_cls"])
def test_all_free_channels_of_real_networks_are_known(prepared, name):
    net = prepared(name)
    scores = net.scores(Propagated())
    assert np.isfinite(scores[net.found.free]).all()
    assert (scores[net.found.free] >= 0).all()


def test_on_a_real_network_the_lowest_hurt_less_than_the_highest(resnet20):
    low, high = resnet20.ends(resnet20.scores(Propagated()))
    assert low < 0.6 * high
