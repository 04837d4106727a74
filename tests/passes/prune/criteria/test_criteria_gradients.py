"""Derivatives by gates: exact on networks small enough to do by hand, and the same with torch and without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.errors import ModelError, UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes.prune.criteria import gradients
from lpcc.passes.prune.criteria.control import Random
from lpcc.passes.prune.criteria.divergence import Divergence
from lpcc.passes.prune.criteria.gradients import Fisher, Hessian, Taylor, Work
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec

LINEAR = "(float[N,3] x) => (float[N,2] y) { h = Gemm(x, w) y = Gemm(h, v) }"
CLASSES = "(float[N,3] x) => (float[N,classes] y) { h = Gemm(x, w) r = Relu(h) o = Gemm(r, v) y = Softmax(o) }"
LOGITS = "(float[N,3] x) => (float[N,classes] y) { h = Gemm(x, w) r = Relu(h) y = Gemm(r, v) }"
CONVOLUTIONS = """(float[N,2,6,6] x) => (float[N,5] y)
    { a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[1,1,1,1]>(a, u) r = Relu(b) c = Conv(r, t) s = Add(a, c)
      d = Conv<group=4, pads=[1,1,1,1]>(s, k) g = Sigmoid(d) f = Flatten(g) y = Gemm(f, v) }"""


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def images(**arrays):
    return Context(calibration=Dataset.from_arrays(arrays))


@pytest.fixture(params=["torch", "differences"])
def way(request, monkeypatch):
    """Both ways to a derivative."""
    if request.param == "torch":
        pytest.importorskip("torch", reason="the training extra is not installed")

        def refuse(*_):
            raise AssertionError("torch was not used")

        monkeypatch.setattr(gradients, "differences", refuse)
    else:
        monkeypatch.setattr(gradients, "find_spec", lambda _: None)


def convolutions(subject, rng):
    return subject(
        CONVOLUTIONS,
        w=normal(rng, 4, 2, 3, 3), u=normal(rng, 6, 4, 3, 3) / 4, t=normal(rng, 4, 6, 1, 1), k=normal(rng, 4, 1, 3, 3),
        v=normal(rng, 144, 5) / 12,
    )  # fmt: skip


def test_a_linear_network_by_hand(subject, rng, way):
    """y = sum over c of m_c h_c v_c, so D = |sum (m_c - 1) h_c v_c|^2 / S, and 1/2 D'' = h_c^2 |v_c|^2 / S."""
    w, v, x = normal(rng, 3, 5), normal(rng, 5, 2), normal(rng, 6, 3)
    body = "(float[N,3] x) => (float[N,1,2] y) { h = Gemm(x, w) o = Gemm(h, v) y = Unsqueeze(o, e) }"
    net = subject(body, w=w, v=v, e=np.array([1]))
    h = x.astype(float) @ w
    exact = np.square(h).mean(axis=0) * np.square(v.astype(float)).sum(axis=1) / np.square(h @ v).sum(axis=1).mean()
    np.testing.assert_allclose(net.of(Hessian(), "h", images(x=x)), exact, rtol=1e-3)
    np.testing.assert_allclose(net.of(Fisher(), "h", images(x=x)), exact, rtol=1e-3)
    assert np.isnan(net.of(Hessian(), "x", images(x=x))).all()


@pytest.mark.parametrize("made", ["logits", "probabilities"])
def test_a_classifier_by_hand(subject, rng, way, made):
    """1/2 D'' is half the variance, under p, of what a channel says of each class."""
    w, v, x = normal(rng, 3, 5), normal(rng, 5, 3), normal(rng, 6, 3)
    net = subject(CLASSES if made == "probabilities" else LOGITS, w=w, v=v)
    r = np.maximum(x.astype(float) @ w, 0)
    p = np.exp(r @ v)
    p /= p.sum(axis=1, keepdims=True)
    said = r[:, :, None] * v  # (images, channels, classes)
    mean = (said * p[:, None]).sum(axis=2, keepdims=True)
    exact = (np.square(said - mean) * p[:, None]).sum(axis=2).mean(axis=0) / 2
    np.testing.assert_allclose(net.of(Hessian(), "r", images(x=x)), exact, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(net.of(Fisher(), "r", images(x=x)), exact, rtol=2e-3, atol=1e-6)


def test_taylor_is_activation_times_gradient(subject, rng, way):
    """Of one output there is one direction: |h_c v_c| sqrt(2 / S)."""
    w, v, x = normal(rng, 3, 5), normal(rng, 5, 1), normal(rng, 6, 3)
    net = subject(LINEAR.replace("float[N,2]", "float[N,1]"), w=w, v=v)
    h = x.astype(float) @ w
    exact = np.abs(h * v[:, 0]).mean(axis=0) * np.sqrt(2 / np.square(h @ v).mean())
    np.testing.assert_allclose(net.of(Taylor(), "h", images(x=x)), exact, rtol=1e-3)


@pytest.mark.parametrize("criterion", [Taylor(), Fisher(), Hessian()], ids=lambda criterion: criterion.name)
def test_torch_and_differences_agree(subject, rng, monkeypatch, criterion):
    pytest.importorskip("torch", reason="the training extra is not installed")
    net, ctx = convolutions(subject, rng), images(x=normal(rng, 5, 2, 6, 6))
    by_torch = net.scores(criterion, ctx)
    monkeypatch.setattr(gradients, "find_spec", lambda _: None)
    by_differences = net.scores(criterion, ctx)
    assert np.array_equal(np.isnan(by_torch), ~net.found.free)
    np.testing.assert_allclose(by_torch, by_differences, rtol=0, atol=0.02 * np.nanmax(by_torch))


def test_networks_of_a_fixed_batch(subject, rng, way):
    """One image at a time, two at a time with the last filled up: as with an open batch."""
    w, v, x = normal(rng, 3, 5), normal(rng, 5, 4), normal(rng, 5, 3)
    expected = subject(CLASSES, w=w, v=v).of(Hessian(), "r", images(x=x))
    for rows in (1, 2):
        net = subject(CLASSES.replace("N", str(rows)), w=w, v=v)
        data = Dataset.open({"x": x}, TensorSpec.inputs_of(to_proto(net.graph)))
        assert data.fixed_batch == rows
        np.testing.assert_allclose(net.of(Hessian(), "r", Context(calibration=data)), expected, rtol=5e-3, atol=1e-6)


def test_a_network_whose_images_cannot_be_kept_apart(subject, rng, way):
    body = """(float[N,2,4,4] x) => (float[16,N,2] y)
    { a = Conv(x, w) r = Reshape(a, s) t = Transpose<perm=[2,0,1]>(r) y = MatMul(t, u) }"""
    w, u, x = normal(rng, 3, 2, 1, 1), normal(rng, 3, 2), normal(rng, 4, 2, 4, 4)
    net = subject(body, w=w, u=u, s=np.array([0, 3, 16]))
    h = np.einsum("oc,ncp->nop", w[:, :, 0, 0].astype(float), x.reshape(4, 2, 16))
    y = np.einsum("nop,od->npd", h, u)
    exact = np.square(h).sum(axis=2).mean(axis=0) * np.square(u).sum(axis=1) / np.square(y).sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(net.of(Hessian(), "a", images(x=x)), exact, rtol=1e-3)


def test_what_torch_cannot_pass_is_left_to_differences(subject, rng, monkeypatch):
    pytest.importorskip("torch", reason="the training extra is not installed")
    used = []

    def differences(*given):
        used.append(1)
        return found(*given)

    def backward(*_):
        raise ModelError("torch cannot run it")
        yield

    found = gradients.differences
    monkeypatch.setattr(gradients, "differences", differences)
    net, ctx = subject(LINEAR, w=normal(rng, 3, 5), v=normal(rng, 5, 2)), images(x=normal(rng, 4, 3))
    expected = net.scores(Fisher(), ctx)
    assert not used
    monkeypatch.setattr(gradients, "backward", backward)
    np.testing.assert_allclose(net.scores(Fisher(), ctx), expected, rtol=1e-3)
    assert used


def test_a_useless_channel_is_found(subject, rng, way):
    w, v = normal(rng, 3, 5), normal(rng, 5, 4)
    w[:, 1] = 0
    v[3] = 0
    net = subject(CLASSES, w=w, v=v)
    for criterion in (Taylor(), Fisher(), Hessian()):
        scores = net.of(criterion, "r", images(x=normal(rng, 8, 3)))
        assert np.flatnonzero(scores < 1e-6).tolist() == [1, 3]


def test_the_work_is_bounded(subject, rng, monkeypatch):
    net = convolutions(subject, rng)
    seen = []
    ctx = images(x=normal(rng, 40, 2, 6, 6))
    ctx.progress = lambda what, done, total: seen.append((what, done, total))
    monkeypatch.setattr(gradients, "find_spec", lambda _: None)
    work = Work.of(net.graph, ctx.calibration)
    monkeypatch.setattr(gradients, "WORK", 3 * work.each * (2 * int(net.found.free.sum()) + 2))
    net.scores(Fisher(), ctx)
    assert seen == [("score channels by fisher", done, 3) for done in (1, 2, 3)]
    assert Work(each=10**15).images(1) == 1


def test_the_same_seed_gives_the_same_scores(subject, rng):
    net, x = convolutions(subject, rng), normal(rng, 4, 2, 6, 6)
    first, second = (net.scores(Taylor(), images(x=x)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_images_and_no_outputs_of_floats(subject, rng):
    net = subject(LINEAR, w=normal(rng, 3, 5), v=normal(rng, 5, 2))
    with pytest.raises(UsageError, match="criterion `fisher` needs images"):
        net.scores(Fisher())
    body = "(float[N,3] x) => (int64[N,1] y) { h = Gemm(x, w) o = Gemm(h, v) y = ArgMax<axis=1>(o) }"
    net = subject(body, w=normal(rng, 3, 5), v=normal(rng, 5, 2))
    with pytest.raises(UsageError, match="no output of the network is a tensor of floats"):
        net.scores(Taylor(), images(x=normal(rng, 4, 3)))


def test_outputs_whose_size_differs_from_run_to_run(subject, rng, monkeypatch):
    """Channels that cancel where all gates are open, and no longer if one moves."""
    body = """(float[N,3] x) => (float[M] y)
    { h = Gemm(x, w) o = Gemm(h, v, b) f = Reshape(o, e) r = Relu(f) q = Cast<to=9>(r) y = Compress(f, q) }"""
    w, v = np.repeat(normal(rng, 3, 1), 2, axis=1), normal(rng, 1, 8)
    net = subject(body, w=w, v=np.concatenate([v, -v]), b=np.eye(8, dtype=np.float32)[0], e=np.array([-1]))
    monkeypatch.setattr(gradients, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="differ in size from run to run"):
        net.scores(Fisher(), images(x=normal(rng, 4, 3)))


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_networks(random_network, data):
    """Finite scores for all channels that can go, and with torch what differences give, but for a few kinks."""
    model = random_network(data.draw)
    assume(model.graph.output and "QuantizeLinear" not in {node.op_type for node in model.graph.node})
    graph = from_proto(model)
    annotate(graph)
    found = channel_groups(graph)
    specs = TensorSpec.inputs_of(to_proto(graph))
    x = np.random.default_rng(0).standard_normal((4, 3, 4, 4)).astype(np.float32)
    ctx = Context(calibration=Dataset.from_arrays({"x": x}, inputs=specs))
    scores = Fisher().scores(graph, found, ctx)
    assert np.array_equal(np.isfinite(scores), found.free)
    assert not (scores < 0).any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "find_spec", lambda _: None)
        again = Fisher().scores(graph, found, ctx)
    if found.free.any():
        largest = scores[found.free].max()
        close = np.abs(again - scores)[found.free] <= 0.05 * scores[found.free] + 1e-3 * largest + 1e-6
        assert close.mean() > 0.7


@pytest.mark.parametrize("count", [2, 5])
def test_directions_have_the_divergence_for_variance(rng, count):
    logits = rng.standard_normal((1, count))
    p = np.exp(logits) / np.exp(logits).sum()
    metric = np.diag(p[0]) - p.T @ p
    units = np.eye(count)[:, None]
    found = np.stack([Divergence({"y": 1}, {}).root("y", logits, unit)[0] for unit in units])
    np.testing.assert_allclose(found.T @ found, metric, atol=1e-12)
    found = np.stack([Divergence({"y": 1}, {}).root("y", p, unit)[0] for unit in units])
    np.testing.assert_allclose(found.T @ found, np.diag(1 / p[0]), rtol=1e-9)


@pytest.mark.parametrize("criterion", [Taylor(), Fisher(), Hessian()], ids=lambda criterion: criterion.name)
def test_a_real_network_loses_less_than_by_chance(resnet20, criterion):
    pytest.importorskip("torch", reason="the training extra is not installed")
    scores = resnet20.scores(criterion, resnet20.context())
    assert np.array_equal(np.isfinite(scores), resnet20.found.free)
    free = np.flatnonzero(resnet20.found.free)
    chance = resnet20.scores(Random())

    def noise(by):
        return resnet20.noise(free[np.argsort(by[free])[: len(free) // 10]])

    assert noise(scores) < noise(chance) / 4
