"""Every kind of layer whose weights are trained: its weights move, and what is written computes what was trained."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.graph import clone, from_proto, to_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402
from lpcc.train.network.constants import constants  # noqa: E402

LAYERS = {
    "Conv": ("y = Conv<group=2, dilations=[2,2]>(x, w, b)", "float[6,2,3,3] w, float[6] b"),
    "ConvTranspose": (
        "y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w, b)",
        "float[4,3,3,3] w, float[3] b",
    ),
    "Gemm": ("f = Flatten(x)  y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w, b)", "float[5,256] w, float[5] b"),
    "MatMul": ("m = MatMul(x, w)  y = Add(m, b)", "float[8,5] w, float[5] b"),
    "GRU": (
        "f = Reshape(x, rows)  y, h = GRU<hidden_size=3, linear_before_reset=1>(f, w, r, b)",
        "float[1,9,8] w, float[1,9,3] r, float[1,18] b, int64[3] rows = {0,-1,8}",
    ),
    "LSTM": (
        'f = Reshape(x, rows)  y, h, c = LSTM<hidden_size=3, direction="bidirectional">(f, w, r, b)',
        "float[2,12,8] w, float[2,12,3] r, float[2,24] b, int64[3] rows = {0,-1,8}",
    ),
    "RNN": (
        "f = Reshape(x, rows)  y, h = RNN<hidden_size=3>(f, w, r, b)",
        "float[1,3,8] w, float[1,3,3] r, float[1,6] b, int64[3] rows = {0,-1,8}",
    ),
    "BatchNormalization": (
        "y = BatchNormalization(x, s, b, mean, var)",
        "float[4] s, float[4] b, float[4] mean, float[4] var",
    ),
    "LayerNormalization": ("y = LayerNormalization<axis=2>(x, s, b)", "float[8,8] s, float[8,8] b"),
    "InstanceNormalization": ("y = InstanceNormalization(x, s, b)", "float[4] s, float[4] b"),
    "GroupNormalization": ("y = GroupNormalization<num_groups=2>(x, s, b)", "float[4] s, float[4] b"),
    "PRelu": ("y = PRelu(x, s)", "float[4,1,1] s"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_trained_and_written(name):
    body, constant = LAYERS[name]
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float[N,4,8,8] x) => (float[A] y) <{constant}> {{ {body} }}'
    graph = from_proto(read_model(text))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)}
    network = Network(graph)
    tensors = {key: torch.from_numpy(array) for key, array in feeds.items()}

    def outputs():
        network.eval()
        with torch.no_grad():
            return network(tensors)["y"].numpy()

    want = Session(to_proto(graph), optimise=False).run(feeds)["y"]
    np.testing.assert_allclose(outputs(), want, rtol=1e-4, atol=1e-4)
    real = {key: place for key, place in constants(graph).items() if place.dtype == np.float32}
    assert {*network.weights, *network.others} == set(real) - {"mean", "var"}
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        (network(tensors)["y"] - 1).square().sum().backward()
        optimiser.step()
    written = clone(graph)
    assert network.write(written)
    for key, place in constants(written).items():
        assert np.array_equal(place.values, constants(graph)[key].values) != (key in real), key
    found = Session(to_proto(written), optimise=False).run(feeds)["y"]
    np.testing.assert_allclose(outputs(), found, rtol=1e-4, atol=1e-4 * np.abs(found).max())
    assert not np.allclose(found, want)
