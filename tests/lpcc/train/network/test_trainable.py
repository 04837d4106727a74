"""Which constants are weights and which are not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network.constants import constants  # noqa: E402
from lpcc.train.network.trainable import weights  # noqa: E402


def found(body, constant="", inputs="float[1,4,8,8] x", given=(), values=None):
    """Names of what decays and of what does not, in a graph with some nodes and constants."""
    opset = 20 if "Gelu" in body else 18
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => (float[A] y) <{constant}> {{ {body} }}'
    model = read_model(text)
    for tensor in model.graph.initializer:
        if tensor.name in (values or {}):
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    graph = from_proto(model)
    annotate(graph)
    result = weights(graph, constants(graph), given)
    assert all(weight.name == name for name, weight in result.items())
    decaying = {name for name, weight in result.items() if weight.decays}
    return decaying, set(result) - decaying


@pytest.mark.parametrize(
    ("body", "constant", "decaying", "others"),
    [
        ("y = Conv(x, w, b)", "float[2,4,1,1] w, float[2] b", {"w"}, {"b"}),
        ("y = ConvTranspose(x, w, b)", "float[4,2,3,3] w, float[2] b", {"w"}, {"b"}),
        ("f = Flatten(x) y = Gemm(f, w, b)", "float[256,3] w, float[3] b", {"w"}, {"b"}),
        ("y = MatMul(w, x)", "float[8,8] w", {"w"}, set()),
        ("y = InstanceNormalization(x, s, b)", "float[4] s, float[4] b", set(), {"s", "b"}),
        ("y = GroupNormalization<num_groups=2>(x, s, b)", "float[2] s, float[2] b", set(), {"s", "b"}),
        ("y = LayerNormalization(x, s, b)", "float[8] s, float[8] b", set(), {"s", "b"}),
        ("y = PRelu(x, s)", "float[4,1,1] s", set(), {"s"}),
        (
            "y = BatchNormalization(x, s, b, m, v)",
            "float[4] s, float[4] b, float[4] m, float[4] v",
            set(),
            {"s", "b"},
        ),
    ],
)
def test_operands_of_layers(body, constant, decaying, others):
    assert found(body, constant) == (decaying, others)


def test_recurrent_layers():
    body = "y, h = GRU<hidden_size=3>(x, w, r, b, , start)"
    constant = "float[1,9,2] w, float[1,9,3] r, float[1,18] b, float[1,4,3] start"
    assert found(body, constant, "float[5,4,2] x") == ({"w", "r"}, {"b"})
    body = "y, h, c = LSTM<hidden_size=3>(x, w, r, b, , start, start, p)"
    constant = "float[1,12,2] w, float[1,12,3] r, float[1,24] b, float[1,4,3] start, float[1,9] p"
    assert found(body, constant, "float[5,4,2] x") == ({"w", "r"}, {"b", "p"})


@pytest.mark.parametrize(
    ("body", "constant", "others"),
    [
        ("c = Conv(x, w) y = Add(c, b)", "float[2,4,1,1] w, float[1,2,1,1] b", {"b"}),
        ("c = Conv(x, w) y = Add(b, c)", "float[2,4,1,1] w, float[2,1,1] b", {"b"}),
        ("c = Conv(x, w) y = Add(c, b)", "float[2,4,1,1] w, float[8] b", set()),  # along the width
        ("c = Conv(x, w) y = Add(c, b)", "float[2,4,1,1] w, float[1,2,8,8] b", set()),  # for each place
        ("c = Conv(x, w) y = Add(c, b)", "float[2,4,1,1] w, float b", set()),
        ("c = MatMul(x, w) y = Add(c, b)", "float[8,5] w, float[5] b", {"b"}),
        ("c = MatMul(x, w) y = Add(c, b)", "float[8,5] w, float[8,5] b", set()),
        ("c = MatMul(x, w) r = Relu(c) y = Add(r, b)", "float[8,5] w, float[5] b", set()),
    ],
)
def test_the_bias_in_an_add_behind_a_layer(body, constant, others):
    assert found(body, constant) == ({"w"}, others)


def test_the_mask_behind_a_product_of_activations_is_no_bias():
    body = "t = Transpose<perm=[0,1,3,2]>(x) s = MatMul(x, t) y = Add(s, mask)"
    assert found(body, "float[8] mask") == (set(), set())


def test_weights_that_are_moved_on_their_way():
    body = """
        a = Cast<to=1>(w)  b = Transpose<perm=[1,0]>(a)  c = Unsqueeze(b, axes)  d = Reshape(c, shape)
        e = Identity(d)  k = Conv(x, e)  f = Squeeze(bias, axes)  g = Unsqueeze(f, two)  y = Add(k, g)
    """
    constant = "float16[4,2] w, int64[1] axes = {0}, int64[4] shape = {2,4,1,1}, float[1,2] bias, int64[2] two = {1,2}"
    assert found(body, constant) == ({"w"}, {"bias"})


def test_what_is_computed_with_is_left_alone():
    body = """
        a = Sub(x, mean)  b = Div(a, deviation)  c = Conv(b, w)  d = Sigmoid(c)  e = Mul(d, stride)  f = Add(e, anchors)
        g = Pow(f, two)  i = Clip(g, low, high)  y = Gather(i, places)
    """
    constant = """
        float[1,4,1,1] mean, float[1,4,1,1] deviation, float[2,4,1,1] w, float stride, float[1,2,8,8] anchors,
        float two = {2}, float low = {0}, float high = {1}, int64[2] places = {0, 0}
    """
    assert found(body, constant) == ({"w"}, set())


def test_integer_weights_are_none():
    constant = "int8[2,4,1,1] w, float[2] s, int8[2] z = {0, 0}, float[2] b"
    assert found("d = DequantizeLinear<axis=0>(w, s, z)  y = Conv(x, d, b)", constant) == (set(), {"b"})


def test_the_expectation_of_a_distribution_is_no_weight():
    values = {"ramp": np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1), "w": np.ones((8, 4, 1, 1), np.float32)}
    body = "c = Conv(x, w)  s = Softmax<axis=1>(c)  y = Conv(s, ramp)"
    assert found(body, "float[8,4,1,1] w, float[1,8,1,1] ramp", values=values) == ({"w"}, set())


def test_what_comes_from_elsewhere_is_not_looked_at():
    constant = "float[2,4,1,1] w, float[1,2,1,1] b"
    body = "i = Identity(w)  c = Conv(x, i)  y = Add(c, b)"
    assert found(body, constant, given={"w"}) == (set(), {"b"})
    assert found(body, constant, given={"i", "b"}) == (set(), set())


def test_one_constant_in_two_roles_decays():
    assert found("m = MatMul(x, w) y = Gemm(f, w, w) f = Flatten(m)", "float[8,8] w")[0] == {"w"}


def test_a_foreign_operator_of_the_same_name_has_no_weights():
    text = '<ir_version: 10, opset_import: ["": 18, "mine": 1]> g (float[4,4] x) => (float[4,4] y) <float[4,4] w> {'
    graph = from_proto(read_model(text + "y = mine.MatMul(x, w) }"))
    assert not weights(graph, constants(graph))
