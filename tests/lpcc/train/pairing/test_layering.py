"""The layers of a graph: where they end, how deep they lie, what everything passes."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.pairing.layering import Layer, layers  # noqa: E402


def graph(body: str, output: str = "float[N,4] y") -> gs.Graph:
    text = f"""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,4,6,6] x) => ({output})
    <float[4,4,1,1] w, float[4] v, float[4,4] m, float[4,1,1] c, float scale = {{0.1}}, uint8 zero = {{0}}>
    {{ {body} }}
    """
    return from_proto(read_model(text))


HEAD = "p = GlobalAveragePool(last) f = Flatten(p) y = MatMul(f, m)"


def test_end_behind_normalisation_bias_and_activation() -> None:
    body = """
    a = Conv(x, w) b = BatchNormalization(a, v, v, v, v) d = Add(b, c) e = Relu(d)
    g = Conv(e, w) last = Clip(g)
    """
    assert layers(graph(body + HEAD)) == [Layer("e", 1, 1, cut=True), Layer("last", 1, 2, cut=True)]


def test_end_before_they_are_rounded() -> None:
    body = """
    a = Conv(x, w) b = Relu(a) q = QuantizeLinear(b, scale, zero) d = DequantizeLinear(q, scale, zero)
    g = Conv(d, w) h = QuantizeLinear(g, scale, zero) i = DequantizeLinear(h, scale, zero) last = Relu(i)
    """
    found = [layer.name for layer in layers(graph(body + HEAD))]
    assert found == ["b", "last"]


def test_of_a_residual_network_everything_passes_the_sums() -> None:
    body = """
    a = Conv(x, w) b = Relu(a)
    d = Conv(b, w) e = Relu(d) h = Conv(e, w) s = Add(h, b) last = Relu(s)
    """
    assert layers(graph(body + HEAD)) == [
        Layer("b", 1, 1, cut=True),
        Layer("e", 1, 2, cut=False),
        Layer("h", 1, 3, cut=False),
        Layer("last", 1, 3, cut=True, joins=True),
    ]


def test_branches_are_no_cuts_and_what_joins_them_is() -> None:
    body = """
    a = Conv(x, w) l = Relu(a) b = Conv(l, w) r = Relu(b) h = Conv(l, w) t = Relu(h)
    last = Concat<axis=0>(r, t)
    """
    found = {layer.name: (layer.cut, layer.joins) for layer in layers(graph(body + HEAD))}
    assert found == {"l": (True, False), "r": (False, False), "t": (False, False), "last": (True, True)}


def test_what_only_moves_or_scores_is_none() -> None:
    body = "a = Conv(x, w) last = MaxPool<kernel_shape=[2,2]>(a) "
    assert [layer.name for layer in layers(graph(body + HEAD))] == ["a"]
    assert layers(graph("p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, m)")) == []


def test_shapes_of_the_input_do_not_count_as_ways_past_a_layer() -> None:
    body = """
    size = Shape(x) a = Conv(x, w) last = Relu(a) b = Conv(last, w) z = Reshape(b, size)
    p = GlobalAveragePool(z) f = Flatten(p) y = MatMul(f, m)
    """
    assert [(layer.name, layer.cut) for layer in layers(graph(body))] == [("last", True), ("b", True)]


def test_channels_are_last_behind_matrix_products() -> None:
    body = """
    flat = Constant<value = int64[3] {0, 4, 36}>()
    a = Conv(x, w) r = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(r)
    b = MatMul(t, m) d = Relu(b) y = MatMul(d, m)
    """
    found = {layer.name: layer.axis for layer in layers(graph(body, "float[N,36,4] y"))}
    assert found == {"a": 1, "d": -1}
