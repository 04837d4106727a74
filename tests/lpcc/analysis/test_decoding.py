"""What is computed from constants is found, however it is computed, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.analysis.decoding import codes, decoded, makers, unscaled
from lpcc.graph import from_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

CASES = {
    "cast": ("int8[2,2] c = {1,-2,3,-4}", "w = Cast<to = 1>(c)"),
    "arithmetic": (
        "int8[2,2] c = {1,-2,3,-4}, float[2,1] s = {0.5, 3}, float o = {1.5}",
        "f = Cast<to = 1>(c) a = Sub(f, o) b = Mul(a, s) e = Neg(b) g = Add(e, s) w = Div(g, o)",
    ),
    "table": ("uint8[2,2] c = {1,0,2,1}, float[3] t = {7,8,9}", "i = Cast<to = 6>(c) w = Gather(t, i)"),
    "vectors": (
        "uint8[2] c = {1,0}, float[2,4] t = {1,2,3,4,5,6,7,8}, int64[1] n = {-1}, int64[1] p = {1}, int64[2] d = {2,3}",
        "i = Cast<to = 6>(c) g = Gather(t, i) r = Reshape(g, n) u = Slice(r, p, n) w = Reshape(u, d)",
    ),
    "joined": (
        "int8[1,2] c = {1,-2}, int8[1,2] d = {3,4}, int64[2] o = {1,0}, float[2] s = {0.5, 2}",
        "j = Concat<axis = 0>(c, d) g = Gather<axis = 0>(j, o) w = DequantizeLinear<axis = 0>(g, s)",
    ),
    "zero points": (
        "uint8[2,2] c = {1,2,3,4}, float[2] s = {0.5, 2}, uint8[2] z = {1, 3}",
        "w = DequantizeLinear<axis = 1>(c, s, z)",
    ),
    "blocks": (
        "int8[4,2] c = {1,2,3,4,5,6,7,8}, float[2,2] s = {0.5, 2, 3, 4}",
        "w = DequantizeLinear<axis = 0, block_size = 2>(c, s)",
    ),
    "two scales": (
        "int8[2,2] c = {1,-1,0,-1}, float zero = {0}, float[2,1] p = {2,3}, float[2,1] m = {5,7}",
        "f = Cast<to = 1>(c) a = Max(f, zero) b = Mul(a, p) d = Min(f, zero) e = Mul(d, m) w = Add(b, e)",
    ),
    "others": ("float[2,3] c = {1,-2,3,-4,5,6}", "a = Transpose<perm = [1,0]>(c) b = Identity(a) w = Relu(b)"),
}


def loaded(constants, body):
    head = '<ir_version: 10, opset_import: ["": 21]> g (float[1] x) => (float[1] y, float w)'
    model = read_model(f"{head} <{constants}> {{ y = Relu(x) {body} }}")
    model.graph.output[1].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_onnxruntime(name):
    model = loaded(*CASES[name])
    graph = from_proto(model)
    (expected,) = Session(model, optimise=False).run({"x": np.ones(1, np.float32)}, ["w"]).values()
    np.testing.assert_allclose(decoded(graph.outputs[1]), expected, rtol=1e-6)
    assert [node.op for node in makers(graph.outputs[1])] == [node.op for node in graph.nodes[1:]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cast", ["c"]),
        ("arithmetic", ["c"]),
        ("table", ["c"]),
        ("vectors", ["c"]),
        ("joined", ["c", "d"]),
        ("zero points", ["c"]),
        ("others", []),
    ],
)
def test_codes_are_the_small_integers(name, expected):
    assert [constant.name for constant in codes(from_proto(loaded(*CASES[name])).outputs[1])] == expected


@pytest.mark.parametrize(
    ("constants", "body", "expected"),
    [
        ("int8[2,2] c = {1,2,3,4}, float[2,1] s = {0.3, 7}", "f = Cast<to = 1>(c) w = Mul(f, s)", [[1, 2], [3, 4]]),
        ("int8[2,2] c = {1,2,3,4}, float[2,1] s = {0.3, 7}", "f = Cast<to = 1>(c) w = Mul(s, f)", [[1, 2], [3, 4]]),
        ("int8[2,2] c = {1,2,3,4}, float[2] s = {0.3, 7}", "w = DequantizeLinear<axis = 0>(c, s)", [[1, 2], [3, 4]]),
        ("int8[2,2] c = {1,2,3,4}, float[2,2] s = {1,2,1,2}", "f = Cast<to = 1>(c) w = Mul(f, s)", [[1, 4], [3, 8]]),
        ("uint8[2] c = {1,2}, float s = {3}, uint8 z = {1}", "w = DequantizeLinear(c, s, z)", [0, 3]),
    ],
)
def test_the_scale_of_a_channel_is_set_aside(constants, body, expected):
    assert np.array_equal(unscaled(from_proto(loaded(constants, body)).outputs[1]), expected)


def test_what_an_input_has_a_part_in_is_none():
    model = loaded("float[1] c = {2}", "a = Mul(x, c) w = Add(a, c)")
    graph = from_proto(model)
    assert makers(graph.outputs[1]) is None
    assert decoded(graph.outputs[1]) is None
    assert makers(graph.inputs[0]) is None


def test_random_numbers_are_none():
    graph = from_proto(loaded("float[1] c = {2}", "a = RandomUniformLike(c) w = Add(a, c)"))
    assert makers(graph.outputs[1]) is None


def test_a_walk_is_short_however_deep_the_graph():
    names = [f"a{i}" for i in range(3000)]
    body = " ".join(f"{new} = Add({old}, {old})" for old, new in zip(["c", *names[:-1]], names, strict=True))
    graph = from_proto(loaded("float[1] c = {0}", body + " w = Identity(a2999)"))
    assert makers(graph.outputs[1]) is None
