from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import lpcc.runtime
from lpcc.graph import from_proto, to_proto
from lpcc.passes import FoldConstants
from lpcc.pipeline import Context
from lpcc.testing import golden_cases

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


@pytest.mark.parametrize("case", golden_cases("golden/fold-constants"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)


def chains(count):
    """A model of `count` chains of constants, each added to the input."""
    nodes, initializers, x = [], [], "x"
    for i in range(count):
        initializers.append(numpy_helper.from_array(np.float32([i, 1]), f"k{i}"))
        nodes.append(helper.make_node("Neg", [f"k{i}"], [f"n{i}"]))
        nodes.append(helper.make_node("Mul", [f"n{i}", f"k{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Add", [x, f"m{i}"], [f"y{i}"]))
        x = f"y{i}"
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "chains", infos[:1], infos[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_one_session_for_all(monkeypatch):
    opened = []

    class Counted(lpcc.runtime.Session):
        def __init__(self, *args, **options):
            opened.append(1)
            super().__init__(*args, **options)

    monkeypatch.setattr(lpcc.runtime, "Session", Counted)
    graph = from_proto(chains(100))
    changes = FoldConstants().run(graph, Context())
    assert changes.counts == {"constant expression evaluated": 200}
    assert len(graph.nodes) == 100
    assert len(opened) == 1


def test_what_cannot_be_evaluated_does_not_stop_the_rest():
    """An index out of range fails when the node runs. Everything around it is folded."""
    graph = from_proto(
        onnx.parser.parse_model(f"""{HEAD} g (float[2] x) => (float[2] y, float[1] z)
        <float[2] k = {{1,2}}, int64[1] far = {{7}}>
        {{
            a = Neg (k)
            b = Gather (a, far)
            c = Neg (b)
            d = Abs (a)
            e = Mul (d, k)
            y = Add (x, e)
            z = Relu (c)
        }}""")
    )
    changes = FoldConstants().run(graph, Context())
    assert {rewrite.node for rewrite in changes.rewrites} == {"a", "d", "e"}
    assert {refusal.node for refusal in changes.refused} == {"b", "c", "z"}
    (kept,) = [node for node in graph.nodes if node.op == "Add"]
    assert np.array_equal(kept.inputs[1].values, [1, 4])


def test_types_that_numpy_lacks_stay():
    graph = from_proto(
        onnx.parser.parse_model(f"""{HEAD} g (float[2] x) => (float[2] y)
        <float[2] k = {{1,2}}> {{ a = Cast <to = 16> (k) b = Cast <to = 1> (a) y = Add (x, b) }}""")
    )
    assert FoldConstants().run(graph, Context()).refused
    onnx.checker.check_model(to_proto(graph), full_check=True)


def test_sizes_that_depend_on_values_take_rounds():
    """The shape of an Expand is itself computed from constants."""
    graph = from_proto(
        onnx.parser.parse_model(
            f"""{HEAD} g (float[4,3] x) => (float[4,3] y)
        <float k = {{2}}, float[4] f = {{0,1,1,1}}, int64[1] three = {{3}}>
        {{
            n = NonZero (f)
            s = Size (n)
            u = Squeeze (s)
            v = Reshape (u, one)
            t = Concat <axis = 0> (v, three)
            e = Expand (k, t)
            p = Pad (e, pads)
            y = Add (x, p)
        }}""".replace("three = {3}", "three = {3}, int64[1] one = {1}, int64[4] pads = {1,0,0,0}")
        )
    )
    FoldConstants().run(graph, Context())
    assert [node.op for node in graph.nodes] == ["Add"]
    assert np.array_equal(graph.nodes[0].inputs[1].values, [[0] * 3, [2] * 3, [2] * 3, [2] * 3])
