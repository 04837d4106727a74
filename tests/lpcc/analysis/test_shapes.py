from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from lpcc.analysis.shapes import bind, constant_of
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto
from lpcc.testing.golden import read_model


def parse(body: str, *, inputs: str, outputs: str, weights: dict[str, np.ndarray], opset: int = 17) -> gs.Graph:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    graph = from_proto(model)
    annotate(graph)
    return graph


def test_open_dimensions_are_bound_and_said() -> None:
    graph = parse(
        "y = Conv(x, w)",
        inputs="float[N,3,H,W] x",
        outputs="float[N,4,A,B] y",
        weights={"w": np.ones((4, 3, 1, 1), np.float32)},
    )
    shapes = bind(graph)
    assert shapes.of(graph.outputs[0]) == (1, 4, 224, 224)
    assert len(shapes.assumptions) == 3
    assert "dimension H of input x taken as 224" in shapes.assumptions
    stated = bind(graph, {"N": 2, "H": 8, "x[3]": 16})
    assert stated.of(graph.outputs[0]) == (2, 4, 8, 16)
    assert stated.assumptions == ()
    assert graph.inputs[0].shape == ["N", 3, "H", "W"], "the graph itself stays as it is"


def test_shape_arithmetic_is_followed_through_what_onnx_gives_up_on() -> None:
    graph = parse(
        """s = Shape(x) h = Slice(s, two, three) half = Div(h, twos) size = Concat <axis = 0> (half, half)
           pads = ConstantOfShape <value = int64[1] {1}> (eight) p = Pad(x, pads) r = Reshape(size, minus)
           t = Concat <axis = 0> (one, one, r) u = Expand(k, t) y = Conv(p, w)""",
        inputs="float[1,1,D,D] x, float[1] k",
        outputs="float[a,b,c,d] y, float[a2,b2,c2,d2] u",
        weights={
            "two": np.array([2]),
            "three": np.array([3]),
            "twos": np.array([2]),
            "eight": np.array([8]),
            "minus": np.array([-1]),
            "one": np.array([1]),
            "w": np.ones((2, 3, 1, 1), np.float32),
        },
    )
    shapes = bind(graph, {"D": 6})
    assert shapes.of(graph.outputs[1]) == (1, 1, 3, 3)
    assert shapes.of(graph.outputs[0]) == (3, 2, 8, 8)


def test_unknown_shapes_are_said() -> None:
    graph = parse(
        "y = other.domain.Mystery(x) z = Relu(y)",
        inputs="float[1,4] x",
        outputs="float[] z",
        weights={},
    )
    graph.outputs[0].shape = None
    for node in graph.nodes:
        node.outputs[0].shape = None
    assert bind(graph).assumptions == ("2 tensors of unknown shape are counted as empty",)


def test_bytes_of_small_formats_are_packed() -> None:
    graph = parse("y = Cast <to = 22> (x)", inputs="float[3,5] x", outputs="int4[3,5] y", weights={}, opset=21)
    shapes = bind(graph)
    assert (shapes.elements(graph.outputs[0]), shapes.nbytes(graph.outputs[0])) == (15, 8)
    assert shapes.nbytes(graph.inputs[0]) == 60
    assert shapes.nbytes(None) == shapes.elements(None) == 0
    assert shapes.of(None) is None


def test_constants_are_seen_through_constant_nodes() -> None:
    graph = parse(
        "k = Constant <value = float[2] {1, 2}> () y = Add(x, k)", inputs="float[2] x", outputs="float[2] y", weights={}
    )
    (add,) = (node for node in graph.nodes if node.op == "Add")
    constant = constant_of(add.inputs[1])
    assert constant is not None
    assert list(constant.values) == [1, 2]
    assert constant_of(add.inputs[0]) is None


@pytest.mark.parametrize("name", ["ppocr_mobile_v2_cls", "ultraface_rfb320", "cifar10_resnet20_jpegft"])
def test_shape_arithmetic_of_real_exports_is_resolved(zoo, name: str) -> None:
    from lpcc.graph import load

    graph = load(zoo.model(name))
    annotate(graph)
    shapes = bind(graph)
    assert not any("unknown" in text for text in shapes.assumptions)
    assert all(shapes.of(tensor) for tensor in graph.outputs)


def test_shapes_follow_from_the_inputs_not_from_what_the_model_states_in_between():
    graph = from_proto(
        read_model(
            '<ir_version: 8, opset_import: ["": 17, "my": 1]>\n'
            "g (float[N,3,8,8] x) => (float[1,4,6,6] y, float[1,5] z)\n"
            "<float[4,3,3,3] w, float[1,4,6,6] c, float[1,4,6,6] r, float[1,7] o> {\n"
            "  c = Conv(x, w)  r = Relu(c)  y = Neg(r)  o = my.Odd(c)  z = my.Odd(o)\n}"
        )
    )
    outputs = [info.SerializeToString() for info in to_proto(graph).graph.output]
    annotate(graph)
    shapes = {tensor.name: tensor.shape for node in graph.nodes for tensor in node.outputs}
    assert shapes["r"] == shapes["y"] == ["N", 4, 6, 6]
    assert shapes["o"] == [1, 7]  # nobody else knows
    assert [info.SerializeToString() for info in to_proto(graph).graph.output] == outputs


def test_branches_of_if_are_followed_and_the_one_taken_gives_the_shape() -> None:
    then = onnx.parser.parse_graph("g () => (float[p,q] t) { t = Squeeze(r, axis) }")
    other = onnx.parser.parse_graph("g () => (float[i,j,k] u) { u = Identity(r) }")
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,M] x, bool given) => (float[a,b] y, float[c,d] z)
        <int64[1] one = {1}, int64[1] axis = {1}, int64 first = {0}>
        { r = Unsqueeze(x, axis) n = Shape(r) d = Gather(n, axis) c = Equal(d, one) }"""
    )
    for condition, name in (("c", "y"), ("given", "z")):
        node = onnx.helper.make_node("If", [condition], [name], then_branch=then, else_branch=other)
        proto.graph.node.append(node)
    graph = from_proto(proto)
    annotate(graph)
    taken, unknown = graph.outputs
    shapes = bind(graph, {"N": 3, "M": 4})
    assert shapes.of(taken) == (3, 4), "known by the sizes alone"
    assert shapes.of(unknown) in ((3, 4), (3, 1, 4))
    assert shapes.assumptions == ()


def test_a_pad_by_unknown_amounts_adds_nothing() -> None:
    graph = parse("p = Pad(x, n) y = Exp(p)", inputs="float[1,N] x, int64[4] n", outputs="float[a,b] y", weights={})
    assert bind(graph, {"N": 6}).of(graph.outputs[0]) == (1, 6)
