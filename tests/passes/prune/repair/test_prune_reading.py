from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc import edit
from lpcc.analysis.groups import channel_groups
from lpcc.calibrate.patches import NoPatches
from lpcc.data import Dataset
from lpcc.graph import to_proto
from lpcc.passes.prune.repair import readings
from lpcc.passes.reconstruct import Reading, Sums, by_result, fingerprint, rows_per_image, solved, sums_of
from lpcc.passes.reconstruct.reading import RIDGE
from lpcc.pipeline import Context
from lpcc.runtime import Session, TensorSpec

_RNG = np.random.default_rng(2)


def normal(*shape):
    return _RNG.standard_normal(shape).astype(np.float32)


X = normal(20, 4, 3, 3)

LAYERS = {
    "Conv<pads=[1,1,1,1], group=2>(x, w, b)": {"w": normal(6, 2, 3, 3), "b": normal(6)},
    "Conv(x, w)": {"w": normal(6, 4, 1, 1)},
    "Gemm<beta=0.5, transB=1>(f, w, b)": {"w": normal(6, 36), "b": normal(6)},
    "Gemm(f, w, b)": {"w": normal(36, 6), "b": normal(1)},
    "MatMul(f, w)": {"w": normal(36, 6)},
}


def layer(network, call, **weights):
    shape = "N,6,3,3" if call.startswith("Conv") else "N,6"
    flat = "" if call.startswith("Conv") else "f = Flatten(x)"
    return network(f"(float[N,4,3,3] x) => (float[{shape}] y) {{ {flat} y = {call} }}", **weights)


@pytest.mark.parametrize("call", LAYERS)
def test_a_layer_is_a_product_of_rows(network, call):
    graph = layer(network, call, **LAYERS[call])
    reading = Reading.of(graph.nodes[-1])
    read = X if call.startswith("Conv") else X.reshape(20, -1)
    rows = reading.window.patches(read, 0, 99)
    made = np.einsum("npgd,gdo->npgo", rows, reading.matrix()) + reading.bias()
    y = Session(to_proto(graph)).run({"x": X})["y"]
    np.testing.assert_allclose(made, reading.window.results(y, 0, 99), rtol=1e-4, atol=1e-4)
    assert reading.takes_bias == (edit.op(reading.node) != "MatMul")
    assert (reading.source, reading.target) == (graph.nodes[-1].inputs[0].name, "y")


@pytest.mark.parametrize("call", LAYERS)
def test_what_is_written_is_what_is_read(network, call):
    graph = layer(network, call, **LAYERS[call])
    reading = Reading.of(graph.nodes[-1])
    matrix, bias = normal(*reading.matrix().shape), normal(*reading.bias().shape)
    with edit.Edit(graph) as e:
        reading.write(e, matrix, bias)
    again = Reading.of(graph.nodes[-1])
    np.testing.assert_allclose(again.matrix(), matrix)
    np.testing.assert_allclose(again.bias(), bias if reading.takes_bias else 0 * bias, rtol=1e-6)
    Session(to_proto(graph)).run({"x": X})


def test_no_bias_of_zeros_is_added(network):
    graph = layer(network, "Conv(x, w)", w=normal(6, 4, 1, 1))
    reading = Reading.of(graph.nodes[-1])
    with edit.Edit(graph) as e:
        reading.write(e, reading.matrix(), reading.bias())
    assert len(graph.nodes[-1].inputs) == 2


@pytest.mark.parametrize(
    ("call", "weights", "why"),
    [
        ("Conv(x, x2)", {}, "constant numbers"),
        ("ConvTranspose(x, w)", {"w": normal(4, 6, 1, 1)}, "not read as rows"),
        ("Gemm<alpha=2.0>(f, w)", {"w": normal(36, 6)}, "factor"),
        ("Gemm(f, w, b)", {"w": normal(36, 6), "b": normal(20, 6)}, "row to row"),
        ("Gemm(f, w, b)", {"w": normal(36, 6), "b": normal(6, 1)}, "row to row"),
        ("MatMul(f, w)", {"w": normal(36, 6) * np.float32(np.inf)}, "not finite"),
        ("Conv(x, w, b)", {"w": normal(6, 4, 1, 1), "b": np.full(6, np.nan)}, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_no_product_of_rows(network, call, weights, why):
    if "x2" in call:
        graph = network("(float[N,4,3,3] x, float[6,4,1,1] x2) => (float[N,6,3,3] y) { y = Conv(x, x2) }")
        node = graph.nodes[-1]
    else:
        tensors = [gs.Constant(name, np.asarray(values, np.float32)) for name, values in weights.items()]
        x = gs.Variable("x", np.float32, [20, 4, 3, 3] if call.startswith("Conv") else [20, 36])
        attrs = {"alpha": 2.0} if "alpha" in call else {}
        node = gs.Node(call.split("(")[0].split("<")[0], attrs=attrs)
        edit.link(node, [x, *tensors], [gs.Variable("y", np.float32)])
    with pytest.raises(NoPatches, match=why):
        Reading.of(node)


def test_weights_that_are_shared_or_go_through_a_scale(network):
    body = """(float[N,4,3,3] x) => (float[N,4,3,3] y, float[N,4,3,3] z)
    { d = DequantizeLinear<axis=0>(q, s, o) a = Conv(x, d) b = Conv(a, w) y = Conv(b, w)
      c = Conv(b, k) z = Conv(c, u) }"""
    graph = network(
        body, q=np.ones((4, 4, 1, 1), np.int8), s=np.ones(4), o=np.zeros(4, np.int8), w=normal(4, 4, 1, 1),
        k=normal(4, 4, 1, 1), u=normal(4, 4, 1, 1),
    )  # fmt: skip
    found = channel_groups(graph)
    assert sorted(readings(graph, found)) == ["z"]
    for name, why in (("a", "constant numbers"), ("b", "shares its weights"), ("y", "shares its weights")):
        with pytest.raises(NoPatches, match=why):
            Reading.of(by_result(graph)[name])


def test_sums_are_those_of_the_rows(network):
    """Centred where a bias takes up the means."""
    body = """(float[N,4,3,3] x) => (float[N,2,3,3] y, float[N,9,2] z)
    { r = Conv(x, w) y = Conv(r, v) s = Reshape(r, h) t = Transpose<perm=[0,2,1]>(s) z = MatMul(t, u) }"""
    w = normal(5, 4, 1, 1)
    graph = network(body, w=w, v=normal(2, 5, 1, 1), h=np.array([0, 5, 9]), u=normal(5, 2))
    found = channel_groups(graph)
    layers = readings(graph, found)
    data = Dataset.from_arrays({"x": X}, inputs=TensorSpec.inputs_of(to_proto(graph)))
    ctx = Context()
    sums = sums_of(graph, [layer for layer, _ in layers.values()], data, ctx)
    assert sums_of(graph, [layer for layer, _ in layers.values()], data, ctx) is sums
    rows = np.einsum("nchw,mc->nhwm", X, w[:, :, 0, 0]).reshape(-1, 5)
    np.testing.assert_allclose(sums["y"].gram[0], np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums["z"].gram[0], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums["z"].mean[0], rows.mean(axis=0), rtol=1e-4, atol=1e-5)
    for name in ("y", "z"):
        np.testing.assert_array_equal(layers[name][1], [found.labels["r"][1]])


def test_damping_is_a_share_of_the_mean_square():
    gram = np.stack([np.diag([1.0, 3.0]), np.zeros((2, 2)), np.full((2, 2), 5.0)]).astype(np.float32)
    damped = Sums(gram, np.zeros((3, 2))).damped()
    np.testing.assert_allclose(damped[0], np.diag([1 + 2 * RIDGE, 3 + 2 * RIDGE]))
    np.testing.assert_allclose(damped[1], np.eye(2))
    assert np.isfinite(np.linalg.inv(damped)).all()
    assert not Sums(np.full((1, 2, 2), np.nan), np.zeros((1, 2))).finite


def test_systems_without_a_solution():
    np.testing.assert_allclose(solved(2 * np.eye(2)[None], np.ones((1, 2, 3))), np.full((1, 2, 3), 0.5))
    for matrix in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(NoPatches, match="least squares"):
            solved(matrix, np.ones((2, 1)))


def test_rows_of_an_image(network):
    window = Reading.of(layer(network, "Conv(x, w)", w=normal(6, 4, 1, 1)).nodes[-1]).window
    assert rows_per_image(window, 1) == 256
    assert rows_per_image(window, 1024) == 32
    assert rows_per_image(window, 10**9) == 8


def test_layers_too_wide_to_sum_up_are_left_out(network, monkeypatch):
    graph = network(
        "(float[N,4,3,3] x) => (float[N,2] y) { r = Conv(x, w) f = Flatten(r) y = Gemm(f, v) }",
        w=normal(5, 4, 1, 1),
        v=normal(45, 2),
    )
    data = Dataset.from_arrays({"x": X}, inputs=TensorSpec.inputs_of(to_proto(graph)))
    layers = [layer for layer, _ in readings(graph, channel_groups(graph)).values()]
    assert [layer.target for layer in layers] == ["y"]
    monkeypatch.setattr("lpcc.calibrate.gram.LARGEST_BYTES", 45 * 45 * 8 - 1)
    assert sums_of(graph, layers, data, Context()) == {}


def test_fingerprints_differ_with_weights(network):
    one, two = (layer(network, "Conv(x, w)", w=np.full((6, 4, 1, 1), value)) for value in (1.0, 2.0))
    assert fingerprint(one) == fingerprint(one) != fingerprint(two)
    assert by_result(one) == {"y": one.nodes[-1]}
