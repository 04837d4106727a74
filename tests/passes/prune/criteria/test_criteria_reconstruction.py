from __future__ import annotations

import itertools

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import to_proto
from lpcc.passes.prune.criteria.reconstruction import Reconstruction, _ordered, _Surgeon
from lpcc.passes.prune.repair import readings
from lpcc.passes.reconstruct import sums_of
from lpcc.pipeline import Context, Need
from lpcc.runtime import TensorSpec

_RNG = np.random.default_rng(3)


def normal(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


X = normal(60, 2, 5, 5)
CHAIN = "(float[N,2,5,5] x) => (float[N,3,5,5] y) { a = Conv(x, w, b) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, v) }"


def images(net, x=X):
    return Context(calibration=Dataset.from_arrays({"x": x}, inputs=TensorSpec.inputs_of(to_proto(net.graph))))


def surgeons(net, tensor="a", x=X):
    """Of a group, with the damped moments and the weights of each layer that reads it."""
    ctx = images(net, x)
    layers = readings(net.graph, net.found)
    sums = sums_of(net.graph, [layer for layer, _ in layers.values()], ctx.calibration, ctx)
    channels = net.found.labels[tensor][1]
    group = next(group for group in net.found.groups if channels[0] in group.channels)
    names = [layer.output for layer in group.readers]
    return (
        group,
        [_Surgeon.of(*layers[name], sums[name], group) for name in names],
        [(layers[name][0].matrix(), sums[name], layers[name][1]) for name in names],
    )


def brute(parts, gone):
    """Least error of all readers, damped, without the channels `gone`; a share of what each makes."""
    total = 0.0
    for matrix, sums, numbers in parts:
        error, made = 0.0, 0.0
        for damped, gram, weights, line in zip(sums.damped(), sums.gram, matrix, numbers, strict=True):
            lost = np.isin(line, gone)
            change = np.zeros_like(weights)
            change[lost] = -weights[lost]
            if (~lost).any():
                kept = np.ix_(~lost, ~lost)
                change[~lost] = np.linalg.solve(damped[kept], damped[np.ix_(~lost, lost)] @ weights[lost])
            error += float(np.trace(change.T @ damped @ change))
            made += float(np.trace(weights.T @ gram @ weights))
        total += error / made
    return total


def test_the_error_is_that_of_the_best_refit(subject):
    net = subject(CHAIN, w=normal(6, 2, 1, 1), b=normal(6), v=normal(3, 6, 3, 3))
    group, (surgeon,), parts = surgeons(net)
    np.testing.assert_allclose(
        surgeon.errors(np.arange(6)), [brute(parts, [channel]) for channel in group.channels], rtol=1e-4
    )
    gone: list[int] = []
    total = 0.0
    for channel in (4, 0, 3, 5, 1):  # so far that the matrices shrink
        left = np.setdiff1d(np.arange(6), gone)
        total += surgeon.errors(left)[list(left).index(channel)]
        surgeon.remove(np.array([channel]))
        gone.append(channel)
        np.testing.assert_allclose(total, brute(parts, group.channels[gone]), rtol=1e-3)


def test_several_at_once_are_as_one_after_the_other(subject):
    net = subject(CHAIN, w=normal(8, 2, 1, 1), b=normal(8), v=normal(3, 8, 3, 3))
    _, (one,), _ = surgeons(net)
    _, (two,), _ = surgeons(net)
    for channel in (1, 6, 2):
        one.remove(np.array([channel]))
    two.remove(np.array([1, 6, 2]))
    left = np.array([0, 3, 4, 5, 7])
    np.testing.assert_allclose(one.errors(left), two.errors(left), rtol=1e-6)


@pytest.mark.parametrize("readers", [1, 2])
def test_scores_are_the_errors_of_greedy_removal(subject, readers):
    body = CHAIN.replace("float[N,3,5,5] y)", "float[N,3,5,5] y, float[N,2,3,3] z)").replace("}", "z = Conv(r, u, c) }")
    more = {"u": normal(2, 6, 3, 3), "c": normal(2)}
    net = subject(body if readers == 2 else CHAIN, w=normal(6, 2, 1, 1), b=normal(6), v=normal(3, 6, 3, 3),
                  **(more if readers == 2 else {}))  # fmt: skip
    scores = net.of(Reconstruction(), "a", images(net))
    group, _, parts = surgeons(net)
    assert len(parts) == readers
    gone: list[int] = []
    for _ in range(6):
        left = [channel for channel in group.channels if channel not in gone]
        errors = [brute(parts, [*gone, channel]) for channel in left]
        before = brute(parts, gone) if gone else 0.0
        cheapest = left[int(np.argmin(errors))]
        gone.append(cheapest)
        assert min(errors) >= before - 1e-9
    np.testing.assert_array_equal(group.channels[np.argsort(scores)], gone)
    # the sum of what each removal adds is the error of all
    assert scores.max() == pytest.approx(brute(parts, gone), rel=1e-3)


def test_of_two_equal_channels_the_first_costs_nothing(subject):
    w = normal(5, 2, 1, 1)
    w[3] = w[1]
    b = np.zeros(5)
    net = subject(CHAIN, w=w, b=b, v=normal(3, 5, 3, 3))
    scores = net.of(Reconstruction(), "a", images(net))
    order = np.argsort(scores)
    assert order[0] in (1, 3)
    assert scores[order[0]] < 0.1 * scores[order[1]]


def test_constant_channels_cost_nothing_where_there_is_a_bias(subject):
    w = normal(4, 2, 1, 1)
    w[2] = 0
    body = CHAIN.replace("<pads=[1,1,1,1]>", "").replace("float[N,3,5,5]", "float[N,3,3,3]")
    net = subject(body, w=w, b=np.array([0, 0, 3.0, 0]), v=normal(3, 4, 3, 3))
    scores = net.of(Reconstruction(), "a", images(net))
    assert scores.argmin() == 2
    assert scores[2] < 0.02 * np.sort(scores)[1]


def test_a_convolution_in_groups_and_columns_behind_flatten(subject):
    body = """(float[N,2,5,5] x) => (float[N,4] y)
    { a = Conv(x, w) r = Relu(a) c = Conv<group=2>(r, v) t = Relu(c) f = Flatten(t) y = Gemm(f, u) }"""
    net = subject(body, w=normal(6, 2, 1, 1), v=normal(4, 3, 3, 3), u=normal(36, 4))
    for tensor, count, places in (("a", 3, 9), ("c", 2, 18)):
        group, (surgeon,), parts = surgeons(net, tensor)
        assert len(group) == count
        assert surgeon.numbers.shape[1:] == (count, places)
        np.testing.assert_allclose(
            surgeon.errors(np.arange(count)), [brute(parts, [channel]) for channel in group.channels], rtol=2e-3
        )
    assert np.isfinite(net.of(Reconstruction(), "c", images(net))).all()


def test_scores_never_are_equal_and_all_go_in_wide_groups(monkeypatch):
    monkeypatch.setattr("lpcc.passes.prune.criteria.reconstruction._STEPS", 4)
    depth = 23
    inverse = np.eye(depth)[None]
    surgeon = _Surgeon(
        inverse, np.zeros((1, depth, 2)), np.arange(depth)[None, :, None], 1.0, np.ones((1, depth), bool)
    )
    scores = _ordered([surgeon], depth)
    assert len(np.unique(scores)) == depth
    np.testing.assert_array_equal(np.argsort(scores), np.arange(depth))


def test_errors_that_are_not_known_come_last():
    weights = np.ones((1, 3, 1))
    inverse = np.eye(3)[None]
    inverse[0, 1, 1] = 0  # no inverse
    surgeon = _Surgeon(inverse, weights, np.arange(3)[None, :, None], 1.0, np.ones((1, 3), bool))
    scores = _ordered([surgeon], 3)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == 3


def test_channels_that_no_layer_reads_as_rows_are_not_known(subject):
    body = """(float[N,2,5,5] x) => (float[N,3,6,6] y)
    { a = Conv(x, w) r = Relu(a) c = Conv(r, v) t = Relu(c) y = ConvTranspose(t, u) }"""
    net = subject(body, w=normal(4, 2, 1, 1), v=normal(4, 4, 1, 1), u=normal(4, 3, 2, 2))
    ctx = images(net)
    assert np.isfinite(net.of(Reconstruction(), "a", ctx)).all()
    assert np.isnan(net.of(Reconstruction(), "c", ctx)).all()


@pytest.mark.parametrize("power", [13, 38])
def test_numbers_that_are_not_finite_say_nothing(subject, power):
    body = CHAIN.replace("r = Relu(a)", "e = Mul(a, big) r = Mul(e, big)")
    net = subject(body, w=normal(4, 2, 1, 1), b=np.zeros(4), v=normal(3, 4, 3, 3), big=np.float32(10.0**power))
    with pytest.raises(UsageError, match="reconstruction"):
        net.scores(Reconstruction(), images(net))


def test_a_network_without_channels_that_can_go(subject):
    """Nothing is wrong with the criterion: the pass says what pins them."""
    net = subject("(float[N,2,5,5] x) => (float[N,3,5,5] y) { y = Conv(x, w) }", w=normal(3, 2, 1, 1))
    assert np.isnan(net.scores(Reconstruction(), images(net))).all()
    assert frozenset({Need.CALIBRATION}) == Reconstruction.needs
    with pytest.raises(UsageError, match="reconstruction"):
        subject(CHAIN, w=normal(4, 2, 1, 1), b=normal(4), v=normal(3, 4, 3, 3)).scores(Reconstruction())


def test_greedy_is_near_the_best_of_all_subsets(subject):
    net = subject(CHAIN, w=normal(7, 2, 1, 1), b=normal(7), v=normal(3, 7, 3, 3))
    scores = net.of(Reconstruction(), "a", images(net))
    group, _, parts = surgeons(net)
    chosen = brute(parts, group.channels[np.argsort(scores)[:3]])
    errors = [brute(parts, group.channels[list(some)]) for some in itertools.combinations(range(7), 3)]
    assert chosen < min(errors) + 0.1 * (np.median(errors) - min(errors))


def test_on_a_real_network_the_lowest_hurt_less_than_the_highest(resnet20):
    low, high = resnet20.ends(resnet20.scores(Reconstruction(), resnet20.context()))
    assert low < 0.6 * high
