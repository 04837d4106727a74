from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import to_proto
from lpcc.passes.prune.criteria.activations import Energy, ZeroShare
from lpcc.pipeline import Context, Need
from lpcc.runtime import TensorSpec

_RNG = np.random.default_rng(0)
_X = _RNG.standard_normal((20, 2, 4, 4)).astype(np.float32)
_W = _RNG.standard_normal((3, 2, 1, 1)).astype(np.float32)
_V = np.ones((2, 3, 1, 1))


def images(x=_X):
    return Context(calibration=Dataset.from_arrays({"x": x}))


def conv(x, w):
    """A convolution of one position."""
    return np.einsum("nchw,mc->nmhw", x.astype(float), w[:, :, 0, 0].astype(float))


def shares(values, axis=1):
    return (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) != 0).mean(axis=1)


def variances(values, axis=1):
    found = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).var(axis=1)
    return found / found.mean()


CHAIN = "(float[N,2,4,4] x) => (float[N,2,4,4] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"


def test_what_is_behind_the_activation_is_measured(subject):
    net = subject(CHAIN, w=_W, v=_V)
    r = np.maximum(conv(_X, _W), 0)
    np.testing.assert_allclose(net.of(ZeroShare(), "r", images()), shares(r), rtol=1e-6)
    np.testing.assert_allclose(net.of(Energy(), "r", images()), variances(r), rtol=1e-4)
    assert {Need.CALIBRATION} == ZeroShare.needs == Energy.needs


@pytest.mark.parametrize("opset", [7, 11, 21])
def test_operators_of_all_opsets(subject, opset):
    net = subject(CHAIN, opset, w=_W, v=_V)
    np.testing.assert_allclose(net.of(ZeroShare(), "r", images()), shares(np.maximum(conv(_X, _W), 0)), rtol=1e-6)


def test_constant_channels_have_no_energy_and_dead_ones_no_share(subject):
    w = _W.copy()
    w[1] = 0
    body = CHAIN.replace("Conv(x, w)", "Conv(x, w, b)")
    net = subject(body, w=w, b=np.array([0.0, 3.0, -1e4]), v=_V)
    np.testing.assert_allclose(net.of(Energy(), "r", images()), [3, 0, 0], atol=1e-5)
    np.testing.assert_allclose(net.of(ZeroShare(), "r", images())[1:], [1, 0])


def test_all_that_layers_read_of_a_residual_stream(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, u) s = Add(r, c) t = Relu(s) y = Conv(t, v) }"""
    u = 30 * _RNG.standard_normal((3, 3, 1, 1)).astype(np.float32)
    net = subject(body, w=_W, u=u, v=_V)
    r = np.maximum(conv(_X, _W), 0)
    t = np.maximum(r + conv(r, u), 0)
    np.testing.assert_allclose(net.of(ZeroShare(), "t", images()), (shares(r) + shares(t)) / 2, rtol=1e-6)
    np.testing.assert_allclose(net.of(Energy(), "t", images()), (variances(r) + variances(t)) / 2, rtol=1e-4)


def test_parts_of_a_concat_and_what_a_depthwise_convolution_makes(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) r = Relu(a) d = Conv<group=3>(r, u) e = Relu(d) f = Conv(x, w2) g = Relu(f)
      c = Concat<axis=1>(e, g) y = Conv(c, v) }"""
    u = np.array([1.0, -1.0, 2.0])[:, None, None, None]
    w2 = _RNG.standard_normal((2, 2, 1, 1)).astype(np.float32)
    net = subject(body, w=_W, u=u, w2=w2, v=np.ones((2, 5, 1, 1)))
    e = np.maximum(np.maximum(conv(_X, _W), 0) * u[:, 0], 0)
    c = np.concatenate([e, np.maximum(conv(_X, w2), 0)], axis=1)
    np.testing.assert_allclose(net.of(ZeroShare(), "c", images()), shares(c), rtol=1e-6)
    np.testing.assert_allclose(net.of(Energy(), "c", images()), variances(c), rtol=1e-4)


def test_channels_behind_flatten_have_many_places(subject):
    body = """(float[N,2,4,4] x) => (float[N,2] y) { a = Conv(x, w) r = Relu(a) f = Flatten(r) y = Gemm(f, v) }"""
    net = subject(body, w=_W, v=np.ones((48, 2)))
    found = net.of(ZeroShare(), "r", images())
    np.testing.assert_allclose(found, shares(np.maximum(conv(_X, _W), 0)), rtol=1e-6)


def test_channels_of_the_last_axis(subject):
    x = _RNG.standard_normal((20, 5, 2)).astype(np.float32)
    w = _W[:, :, 0, 0].T
    body = "(float[N,5,2] x) => (float[N,5,2] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    net = subject(body, w=w, v=np.ones((3, 2)))
    r = np.maximum(x @ w, 0)
    np.testing.assert_allclose(net.of(ZeroShare(), "r", images(x), axis=2), shares(r, 2), rtol=1e-6)
    np.testing.assert_allclose(net.of(Energy(), "r", images(x), axis=2), variances(r, 2), rtol=1e-4)


def test_channels_that_no_layer_reads_are_not_known(subject):
    net = subject(CHAIN, w=_W, v=_V)
    for criterion in (ZeroShare(), Energy()):
        assert np.isnan(net.of(criterion, "y", images())).all()
        assert np.isfinite(net.of(criterion, "x", images())).all()  # pinned, but read


def test_neither_the_order_of_the_images_nor_their_batches_matter(subject):
    net = subject(CHAIN, w=_W, v=_V)
    fixed = subject(CHAIN.replace("N,", "4,"), w=_W, v=_V)
    for criterion in (ZeroShare(), Energy()):
        expected = net.of(criterion, "r", images())
        np.testing.assert_allclose(net.of(criterion, "r", images(_X[::-1])), expected, rtol=1e-5)
        data = Dataset.from_arrays({"x": _X}, inputs=TensorSpec.inputs_of(to_proto(fixed.graph)))
        np.testing.assert_allclose(fixed.of(criterion, "r", Context(calibration=data)), expected, rtol=1e-5)


def test_no_more_images_are_taken_than_needed(subject):
    net = subject(CHAIN, w=_W, v=_V)
    many = np.concatenate([np.tile(_X, (13, 1, 1, 1))[:256], np.full((50, 2, 4, 4), np.nan, dtype=np.float32)])
    seen = []
    ctx = Context(calibration=Dataset.from_arrays({"x": many}), progress=lambda *said: seen.append(said))
    assert np.isfinite(net.of(Energy(), "r", ctx)).all()
    assert seen[-1] == ("activations for `energy`", 256, 256)


def test_without_zeros_it_says_so(subject):
    net = subject(CHAIN.replace("Relu", "Sigmoid"), w=_W, v=_V)
    with pytest.raises(UsageError, match="ever zero"):
        net.scores(ZeroShare(), images())
    assert np.isfinite(net.of(Energy(), "r", images())).all()


@pytest.mark.parametrize("criterion", [ZeroShare(), Energy()], ids=lambda c: c.name)
def test_without_images_or_tensors_it_says_so(subject, criterion):
    with pytest.raises(UsageError, match="calibration"):
        subject(CHAIN, w=_W, v=_V).scores(criterion)
    body = """(float[N,2,4,4] x) => (float16[N,2,4,4] y)
    { h = Cast<to=10>(x) a = Conv(h, w) r = Relu(a) y = Conv(r, v) }"""
    net = subject(body, w=_W.astype(np.float16), v=_V.astype(np.float16))
    with pytest.raises(UsageError, match="float32"):
        net.scores(criterion, images())


@pytest.mark.parametrize("criterion", [ZeroShare(), Energy()], ids=lambda c: c.name)
def test_on_a_real_network_the_lowest_hurt_less_than_the_highest(resnet20, criterion):
    low, high = resnet20.ends(resnet20.scores(criterion, resnet20.context()))
    assert low < 0.6 * high
