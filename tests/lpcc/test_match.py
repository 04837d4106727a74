from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc import edit, match
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

TEXT = """<ir_version: 10, opset_import: ["": 17]>
g (bool b, float[2,3] x) => (float[2,3] y, float[2,3] o)
<float[3] row, float one = {1}, float[1,1,1] wide = {1}>
{
    r = Relu(x)
    a = Add(row, r)
    o = Neg(a)
    t = Tanh(o)
    i = Sigmoid(x)
    y = If(b) <
        then_branch = p () => (float[2,3] u) { u = Mul(t, i) },
        else_branch = q () => (float[2,3] v) { v = Abs(x) }>
}"""


@pytest.fixture
def graph():
    return from_proto(read_model(TEXT))


def named(graph: gs.Graph, name: str) -> gs.Node:
    return next(node for node in edit.nodes(graph) if any(t.name == name for t in node.outputs))


def test_makers_and_readers(graph):
    relu, add, neg, tanh = (named(graph, name) for name in "raot")
    with edit.Edit(graph) as e:
        assert match.maker(e, add.inputs[1]) is relu
        assert match.maker(e, add.inputs[1], "Tanh", "Relu") is relu
        assert match.maker(e, add.inputs[1], "Tanh") is None
        assert match.maker(e, add.inputs[0]) is None
        assert match.maker(e, None) is None
        assert match.sole_maker(e, neg.inputs[0], "Add") is add
        assert match.maker(e, tanh.inputs[0]) is neg
        assert match.sole_maker(e, tanh.inputs[0]) is None, "a graph output is read by the caller too"
        assert match.sole_reader(e, relu.outputs[0], "Add") is add
        assert match.sole_reader(e, neg.outputs[0]) is None
        assert match.sole_reader(e, graph.inputs[1]) is None


def test_patterns_stay_in_one_graph(graph):
    inner = named(graph, "u")
    with edit.Edit(graph) as e:
        assert match.sole_reader(e, named(graph, "t").outputs[0]) is None
    body = next(scope for scope in edit.graphs(graph) if scope.name == "p")
    with edit.Edit(body) as e:
        assert match.maker(e, inner.inputs[0]) is None
        assert match.maker(e, inner.outputs[0]) is inner


def test_operands(graph):
    add, neg, mul = (named(graph, name) for name in "aou")
    index, constant = match.with_constant(add)
    assert (index, constant.name) == (1, "row")
    assert match.with_constant(neg) is None
    assert match.with_constant(mul) is None
    assert [(a.name, b.name) for a, b in match.both_orders(mul)] == [("t", "i"), ("i", "t")]


def test_scalars_that_leave_the_shape():
    x = gs.Variable("x", np.float32, ["N", 3])
    assert match.scalar_beside(gs.Constant("c", np.array(2.0, np.float32)), x) == 2.0
    assert match.scalar_beside(gs.Constant("c", np.full((1, 1), 2.0)), x) == 2.0
    assert match.scalar_beside(gs.Constant("c", np.full((1, 1, 1), 2.0)), x) is None
    assert match.scalar_beside(gs.Constant("c", np.full((1,), 2.0)), gs.Variable("u", np.float32, None)) is None
    assert match.scalar_beside(gs.Constant("c", np.full((3,), 2.0)), x) is None
    assert match.scalar_beside(x, x) is None


@pytest.mark.parametrize(("dtype", "expected"), [("float16", 2**-10), ("bfloat16", 2**-7), ("float32", 2**-23)])
def test_float_types(dtype, expected):
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    assert match.is_float(dtype)
    assert match.epsilon(dtype) == expected
    assert 0 < match.smallest_normal(dtype) < 1e-4
    assert match.close(float(np.array(1 / 6).astype(dtype)), 1 / 6, dtype)
    assert not match.close(0.2, 1 / 6, dtype)
    assert not match.close(None, 1 / 6, dtype)
    assert not match.is_float(np.dtype("int32"))
    assert not match.is_float(None)
