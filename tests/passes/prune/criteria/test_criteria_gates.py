"""Gates: closed ones are what `zeroed` says, open ones change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcc.analysis.groups import channel_groups
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes.prune import zeroed
from lpcc.passes.prune.criteria.gates import GatedSession, gated
from lpcc.runtime import Session
from lpcc.text import print_graph

_RNG = np.random.default_rng(0)
RESIDUAL = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) b = Conv(a, u) r = Relu(b) c = Conv(r, t) s = Add(a, c) y = Conv(s, v) }"""


def normal(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


def residual(subject):
    return subject(RESIDUAL, w=normal(4, 2, 1, 1), u=normal(6, 4, 1, 1), t=normal(4, 6, 1, 1), v=normal(2, 4, 1, 1))


def session_of(net):
    return GatedSession(gated(net.graph, net.found), [tensor.name for tensor in net.graph.outputs])


def check(net, channels, shape=(3, 2, 4, 4)):
    """Closed gates of these channels, and open ones of all."""
    session = session_of(net)
    feeds = {net.graph.inputs[0].name: normal(*shape)}
    gates = np.ones((1, net.found.count))
    same(session.run(feeds, gates), Session(to_proto(net.graph)).run(feeds))
    gates[0, channels] = 0
    same(session.run(feeds, gates), Session(to_proto(zeroed(net.graph, net.found, channels))).run(feeds))
    return session, feeds


def same(found, expected):
    for name, value in expected.items():
        if value.dtype.kind == "f":
            scale = float(np.abs(value[np.isfinite(value)]).max(initial=1e-3))
            np.testing.assert_allclose(found[name] / scale, value / scale, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_closed_gates_are_zero_channels_in_random_networks(random_network, data):
    graph = from_proto(random_network(data.draw))
    annotate(graph)
    found = channel_groups(graph)
    network = gated(graph, found)
    assert np.array_equal(network.known, found.free)
    names = [tensor.name for tensor in graph.outputs]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    closed = data.draw(st.lists(st.sampled_from(range(found.count)), unique=True, max_size=12)) if found.count else []
    closed = [channel for channel in closed if found.free[channel]]
    gates = np.ones((1, found.count))
    gates[0, closed] = 0
    same(GatedSession(network, names).run(feeds, gates), Session(to_proto(zeroed(graph, found, closed))).run(feeds))


def test_the_graph_stays_and_each_tensor_is_gated_once(subject):
    net = residual(subject)
    before = print_graph(net.graph)
    network = gated(net.graph, net.found)
    assert print_graph(net.graph) == before
    assert sum(node.op == "Mul" for node in network.graph.nodes) == 3  # of `a`, `r` and `s`: `x` is an input
    assert network.graph.inputs[-1].name == network.gates == "gates"


def test_channels_of_a_residual_stream(subject):
    net = residual(subject)
    check(net, net.found.labels["s"][1][[0, 2]])
    check(net, net.found.labels["r"][1][[1]])


def test_concat_depthwise_and_many_places(subject):
    body = """(float[N,2,4,4] x) => (float[N,3] y)
    { a = Conv(x, w) b = Conv<pads=[1,1,1,1]>(x, u) c = Concat<axis=1>(a, b)
      d = Conv<group=5, kernel_shape=[2,2], strides=[2,2]>(c, k) r = Sigmoid(d) f = Flatten(r) y = Gemm(f, v, z) }"""
    net = subject(body, w=normal(2, 2, 1, 1), u=normal(3, 2, 3, 3), k=normal(5, 1, 2, 2), v=normal(20, 3), z=normal(3))
    line = net.found.labels["c"][1]
    assert net.found.free[line].all()
    session, feeds = check(net, line[[0, 3]])
    rows = np.ones((3, net.found.count))
    rows[1, line[2]] = rows[2, line[4]] = 0
    one_by_one = [session.run({"x": feeds["x"][i : i + 1]}, rows[i : i + 1])["y"] for i in range(3)]
    np.testing.assert_allclose(session.run(feeds, rows)["y"], np.concatenate(one_by_one), rtol=1e-5, atol=1e-5)


def test_squeeze_and_excite(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) p = GlobalAveragePool(a) q = Conv(p, u) r = Relu(q) s = Conv(r, t) g = Sigmoid(s)
      m = Mul(a, g) y = Conv(m, v) }"""
    net = subject(body, w=normal(6, 2, 1, 1), u=normal(3, 6, 1, 1), t=normal(6, 3, 1, 1), v=normal(2, 6, 1, 1))
    check(net, net.found.labels["m"][1][[1, 4]])
    check(net, net.found.labels["r"][1][[2]])


def test_all_that_sums_over_channels(subject):
    """Sums, products with a constant first, transposed operands, another type."""
    body = """(float[N,2,4,4] x) => (float[N,1,4,4] y, float[N,5,16] z, float[N,3] o)
    { u = Cast<to=11>(v) a = Conv(x, w) r = Relu(a) y = ReduceL2<axes=[1]>(r) h = Reshape(r, shape) z = MatMul(m, h)
      p = GlobalAveragePool(r) f = Flatten(p) d = Cast<to=11>(f) e = Gemm<transB=1>(d, u) o = Cast<to=1>(e) }"""
    net = subject(body, w=normal(4, 2, 1, 1), m=normal(5, 4), shape=np.array([0, 4, 16]), v=normal(3, 4))
    line = net.found.labels["r"][1]
    assert net.found.free[line].all()
    check(net, line[[3]])


def test_old_opsets_are_refused(subject):
    body = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w) y = Conv(a, u) }"
    net = subject(body, 6, w=normal(3, 2, 1, 1), u=normal(2, 3, 1, 1))
    with pytest.raises(UsageError, match="need opset 7, not 6"):
        gated(net.graph, net.found)


def batch_of(net, rows):
    return next(iter(Dataset.from_arrays({"x": normal(rows, 2, 4, 4)}).batches(rows)))


def test_images_that_are_kept_apart(subject):
    assert session_of(residual(subject)).separates(batch_of(residual(subject), 3))
    assert not session_of(residual(subject)).separates(batch_of(residual(subject), 1))


def test_images_that_are_mixed(subject):
    body = """(float[N,2,4,4] x) => (float[N,2,4,4] y)
    { a = Conv(x, w) m = ReduceMean<axes=[0]>(a) b = Add(a, m) y = Conv(b, u) }"""
    net = subject(body, w=normal(3, 2, 1, 1), u=normal(2, 3, 1, 1))
    assert not session_of(net).separates(batch_of(net, 3))


def test_images_that_leave_the_first_axis(subject):
    body = """(float[N,2,4,4] x) => (float[16,N,2] y)
    { a = Conv(x, w) r = Reshape(a, s) t = Transpose<perm=[2,0,1]>(r) y = MatMul(t, u) }"""
    net = subject(body, w=normal(3, 2, 1, 1), u=normal(3, 2), s=np.array([0, 3, 16]))
    assert net.found.free.any()
    check(net, net.found.labels["a"][1][:1])
    assert not session_of(net).separates(batch_of(net, 2))
