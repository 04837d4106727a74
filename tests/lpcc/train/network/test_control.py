"""If, Loop and Scan in torch, with what their bodies read from outside, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.errors import ModelError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402

IF = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,4] x, bool flag) => (float[N,4] y) <float[4,4] w, float[4] offset, float two = {2}>
{
    a = Relu(x)
    z = If(flag) <
        then_branch = g1 () => (float[N,4] t) { m = MatMul(a, w)  t = Add(m, offset) },
        else_branch = g2 () => (float[N,4] e) { e = Mul(a, two) }
    >
    y = Neg(z)
}
"""

LOOP = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,4] x, int64 turns) => (float[N,4] y, float[T,N,4] every) <float[4,4] w, bool go = {1}, float limit = {1e3}>
{
    y, every = Loop(turns, go, x) <body = b (int64 i, bool c, float[N,4] s) => (bool more, float[N,4] t, float[N,4] o) {
        m = MatMul(s, w)
        t = Tanh(m)
        f = Cast<to=1>(i)
        shifted = Add(t, f)
        inner = If(c) <
            then_branch = g1 () => (float[N,4] p) { p = Add(shifted, x) },
            else_branch = g2 () => (float[N,4] q) { q = Identity(shifted) }
        >
        o = Neg(inner)
        top = ReduceMax<keepdims=0>(t)
        more = Less(top, limit)
    }>
}
"""

SCAN = """
<ir_version: 10, opset_import: ["": 17]>
g (float[3] start, float[3,5] xs, float[5,3] zs) => (float[3] last, float[5,3] a, float[3,5] b) <float[3] k>
{
    last, a, b = Scan<num_scan_inputs=2, scan_input_axes=[1, 0], scan_input_directions=[0, 1],
                      scan_output_axes=[0, 1], scan_output_directions=[1, 0],
        body = s (float[3] h, float[3] x, float[3] z) => (float[3] n, float[3] p, float[3] q) {
            t = Add(h, x)
            u = Mul(t, k)
            n = Tanh(u)
            p = Sub(n, z)
            q = Identity(n)
        }>(start, xs, zs)
}
"""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_equal(graph, network, feeds):
    want = Session(to_proto(graph), optimise=False).run(feeds)
    with torch.no_grad():
        found = network({name: torch.from_numpy(np.array(array)) for name, array in feeds.items()})
    for name, array in want.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name].numpy(), array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flag", [True, False])
def test_if(flag):
    graph = from_proto(read_model(IF))
    assert_equal(graph, Network(graph), {"x": noise(3, 4), "flag": np.array(flag)})


@pytest.mark.parametrize("turns", [0, 1, 4])
def test_loop(turns):
    graph = from_proto(read_model(LOOP))
    assert_equal(graph, Network(graph), {"x": noise(1, 4), "turns": np.array(turns, np.int64)})


def test_a_loop_that_stops_itself():
    text = LOOP.replace("limit = {1e3}", "limit = {0.2}")
    graph = from_proto(read_model(text))
    feeds = {"x": noise(2, 4), "turns": np.array(50, np.int64)}
    assert len(Session(to_proto(graph), optimise=False).run(feeds)["every"]) < 50
    assert_equal(graph, Network(graph), feeds)


def test_scan():
    graph = from_proto(read_model(SCAN))
    assert_equal(graph, Network(graph), {"start": noise(3), "xs": noise(3, 5, seed=1), "zs": noise(5, 3, seed=2)})


def test_weights_inside_bodies_are_trained_and_written():
    graph = from_proto(read_model(IF))
    network = Network(graph)
    assert set(network.weights) == {"w"}
    assert set(network.others) == {"offset"}
    feeds = {"x": noise(3, 4), "flag": np.array(True)}
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    network(tensors)["y"].square().sum().backward()
    assert network.others["offset"].grad.abs().min() > 0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.sub_(0.1 * parameter.grad)
    written = clone(graph)
    assert network.write(written) == ["m", "t"]
    assert_equal(written, network, feeds)
    want = Session(to_proto(graph), optimise=False).run(feeds)["y"]
    assert not np.allclose(Session(to_proto(written), optimise=False).run(feeds)["y"], want)


def test_gradients_pass_through_the_turns_of_a_loop():
    graph = from_proto(read_model(LOOP))
    network = Network(graph).double()
    turns = torch.tensor(3)
    x = torch.from_numpy(noise(1, 4)).double().requires_grad_()
    weight = network.weights["w"]
    network({"x": x, "turns": turns})["y"].sum().backward()
    given, step = weight.grad[1, 2].item(), 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight[1, 2] += sign * step
            values.append(network({"x": x, "turns": turns})["y"].sum().item())
            weight[1, 2] -= sign * step
    assert given == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_names_used_in_both_branches():
    text = IF.replace("{ e = Mul(a, two) }", "{ m = Mul(a, two)  e = Sub(m, two) }")
    graph = from_proto(read_model(text))
    for flag in (True, False):
        assert_equal(graph, Network(graph), {"x": noise(3, 4), "flag": np.array(flag)})


def test_an_operator_in_a_body_that_gradients_cannot_pass():
    text = IF.replace("m = MatMul(a, w)", "k = MatMul(a, w) m = Unheard(k)")
    with pytest.raises(ModelError, match=r"`m` \(Unheard\) cannot be trained through"):
        Network(from_proto(read_model(text)))


def test_scan_of_a_batch():
    text = """
    <ir_version: 10, opset_import: ["": 8]>
    g (float[2,3] start, float[2,5,3] xs) => (float[2,3] last, float[2,5,3] all)
    {
        last, all = Scan<num_scan_inputs=1, directions=[1],
            body = s (float[3] h, float[3] x) => (float[3] n, float[3] p) {
                n = Add(h, x)
                p = Neg(n)
            }>( , start, xs)
    }
    """
    graph = from_proto(read_model(text))
    feeds = {"start": noise(2, 3), "xs": noise(2, 5, 3, seed=1)}
    assert_equal(graph, Network(graph), feeds)


def test_an_unknown_operator_with_a_body_is_refused():
    text = SCAN.replace("Scan<", "Sweep<")
    with pytest.raises(ModelError, match=r"\(Sweep\) cannot be run in torch: .* only If, Loop and Scan"):
        Network(from_proto(read_model(text)))
