"""Operators that torch cannot run: through onnxruntime where no gradient passes, refused where one would have to."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.errors import ModelError
from lpcc.graph import from_proto, to_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network, islands  # noqa: E402
from lpcc.train.operators import OPERATORS  # noqa: E402

BEFORE = """
<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
g (float[N,4] x) => (float[N,4] y) <float[4,4] w>
{
    i = com.microsoft.Inverse(x)
    y = MatMul(i, w)
}
"""
AFTER = """
<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
g (float[N,4] x) => (float[N,4] y) <float[4,4] w>
{
    m = MatMul(x, w)
    y = com.microsoft.Inverse(m)
}
"""


def run(network, **feeds):
    with torch.no_grad():
        found = network({name: torch.from_numpy(array) for name, array in feeds.items()})
    return {name: value.numpy() for name, value in found.items()}


@pytest.fixture(autouse=True)
def _unknown():
    assert ("com.microsoft", "Inverse") not in OPERATORS


def test_nothing_trained_comes_before_it():
    graph = from_proto(read_model(BEFORE))
    network = Network(graph)
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    np.testing.assert_allclose(run(network, x=x)["y"], want, rtol=1e-4, atol=1e-5)
    network({"x": torch.from_numpy(x)})["y"].sum().backward()
    assert network.weights["w"].grad.abs().sum() > 0


def test_a_gradient_would_have_to_pass():
    graph = from_proto(read_model(AFTER))
    with pytest.raises(ModelError, match=r"node `y` \(com.microsoft::Inverse\) cannot be trained through: .*not known"):
        Network(graph)


def test_a_teacher_needs_no_gradient():
    graph = from_proto(read_model(AFTER))
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    np.testing.assert_allclose(run(Network(graph, frozen=True), x=x)["y"], want, rtol=1e-3, atol=1e-4)


def test_integers_carry_no_gradient():
    text = """
    <ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[N,4] x) => (float[M] y) <float[4,4] w>
    {
        m = MatMul(x, w)
        a = ArgMax<axis=1, keepdims=0>(m)
        f = Cast<to=1>(a)
        y, places, counts = com.microsoft.Unique(f)
    }
    """
    assert ("com.microsoft", "Unique") not in OPERATORS
    graph = from_proto(read_model(text))
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    np.testing.assert_array_equal(run(Network(graph), x=x)["y"], want)


def test_the_session_is_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(islands, "Session", lambda model, **options: made.append(model) or Session(model, **options))
    network = Network(from_proto(read_model(BEFORE)))
    assert len(made) == 1
    for _ in range(3):
        run(network, x=np.eye(4, dtype=np.float32))
    network({"x": torch.eye(4)}, taps=("i",))
    assert len(made) == 1


def test_an_operator_that_nobody_knows():
    text = BEFORE.replace("com.microsoft.Inverse", "Unheard")
    with pytest.raises(ModelError, match=r"node `i` \(Unheard\) can be run neither in torch nor in onnxruntime: "):
        Network(from_proto(read_model(text)))


def test_constants_of_an_island_stay_constants(monkeypatch):
    made = []
    monkeypatch.setattr(islands, "Session", lambda model, **options: made.append(model) or Session(model, **options))
    text = """
    <ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[N,4] x) => (uint8[N,3] y)
    <float s = {0.1}, uint8 z = {128}, uint8[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float ws = {0.5}, uint8 wz = {3}>
    {
        q = QuantizeLinear(x, s, z)
        y = QLinearMatMul(q, s, z, w, ws, wz, s, z)
    }
    """
    assert ("", "QLinearMatMul") not in OPERATORS
    graph = from_proto(read_model(text))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    want = Session(to_proto(graph), optimise=False).run({"x": x})["y"]
    np.testing.assert_array_equal(run(Network(graph, frozen=True), x=x)["y"], want)
    assert [len(model.graph.initializer) for model in made] == [7]
