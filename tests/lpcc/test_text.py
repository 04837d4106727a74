"""The printer: complete, deterministic, readable."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from lpcc import edit
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.text import kind_text, print_graph, type_text

EVERYTHING = """
<ir_version: 8, opset_import: ["": 17, "me": 2]>
g (float[N,4] x, bool c, int64 shape) => (float[N,4] y)
<float[4] w = {1,2.5,-3,1e-7}, float[2,8] big = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
{
    a = me.Odd <beta = 2, alpha = "s", gamma = [1, 2]> (x, "", big)
    y = If (c) <
        then_branch: graph = t () => (float[N,4] t_y) { t_y = Add(a, w) },
        else_branch: graph = e () => (float[N,4] e_y) { e_y = Neg(a) }
    >
}
"""

PRINTED = """\
<opset: ["": 17, "me": 2]>
g (float[N,4] x, bool c, int64 shape) => (float[N,4] y) {
  float[2,8] big = {...}
  float[N,4] a = me.Odd<alpha='s', beta=2, gamma=[1, 2]>(x, "", big)
  float[N,4] y = If(c)
    else_branch:
    e () => (float[N,4] e_y) {
      float[N,4] e_y = Neg(a)
    }
    then_branch:
    t () => (float[N,4] t_y) {
      float[4] w = {1, 2.5, -3, 1e-07}
      float[N,4] t_y = Add(a, w)
    }
}
"""


def everything() -> gs.Graph:
    graph = from_proto(onnx.parser.parse_model(EVERYTHING))
    graph.nodes[0].outputs[0].dtype = np.dtype(np.float32)
    graph.nodes[0].outputs[0].shape = ["N", 4]
    return graph


def test_everything() -> None:
    assert print_graph(everything()) == PRINTED


def test_text_does_not_depend_on_the_order_of_attributes_and_constants() -> None:
    graph = everything()
    for node in edit.nodes(graph):
        turned = dict(reversed(node.attrs.items()))
        node.attrs.clear()
        node.attrs.update(turned)
    assert print_graph(graph) == PRINTED
    assert print_graph(clone(graph)) == PRINTED


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        (np.float32, ["N", 3, None], "float[N,3,?]"),
        (np.int64, [], "int64"),
        (np.float16, [0], "float16[0]"),
        (np.dtype(object), [1], "string[1]"),
        (np.bool_, None, "bool[...]"),
        (ml_dtypes.int4, [2], "int4[2]"),
        (ml_dtypes.float8_e4m3fnuz, [2], "float8e4m3fnuz[2]"),
        (ml_dtypes.bfloat16, [2], "bfloat16[2]"),
        (None, None, "?[...]"),
        (None, [2], "?[2]"),
        (TensorProto.INT8, [2], "int8[2]"),
    ],
)
def test_types(dtype: Any, shape: Any, expected: str) -> None:
    assert type_text(dtype, shape) == expected


def test_types_that_are_no_tensors() -> None:
    kind = helper.make_optional_type_proto(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["N"])))
    main = helper.make_graph(
        [helper.make_node("OptionalHasElement", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", kind)],
        [helper.make_tensor_value_info("y", TensorProto.BOOL, [])],
    )
    graph = from_proto(helper.make_model(main, opset_imports=[helper.make_opsetid("", 18)]))
    assert "g (optional(seq(float[N])) x) => (bool y)" in print_graph(graph)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(1, None)),
            "map(string, float[...])",
        ),
        (helper.make_sparse_tensor_type_proto(1, [3]), "sparse(float[3])"),
        (helper.make_tensor_type_proto(7, []), "int64"),
        (onnx.TypeProto(), "?"),
    ],
)
def test_kinds_of_types(kind: onnx.TypeProto, expected: str) -> None:
    assert kind_text(kind) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "[1, 2]"),
        ([], "[]"),
        (1, "1"),
        (0.1, "0.1"),
        (1 / 3, "0.333333"),
        ("a'b\n", '"a\'b\\n"'),
        (["a", "b"], "['a', 'b']"),
        (gs.Constant("c", np.array([1, 2], np.int64)), "int64[2] {1, 2}"),
        (gs.Constant("c", np.array(1.5, np.float32)), "float {1.5}"),
        (gs.Constant("c", np.zeros(9, np.float32)), "float[9] {...}"),
        (AttributeProto(name="k", type=AttributeProto.STRING, s=b"\xff"), "b'\\xff'"),
        (AttributeProto(name="k", type=AttributeProto.STRINGS, strings=[b"a"]), "[b'a']"),
        (
            AttributeProto(name="k", type=AttributeProto.TYPE_PROTO, tp=helper.make_tensor_type_proto(1, [2])),
            "float[2]",
        ),
        (helper.make_attribute("k", [numpy_helper.from_array(np.ones(1, np.int8))]), "[int8[1] {1}]"),
    ],
)
def test_attributes(value: Any, expected: str) -> None:
    graph = from_proto(
        onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float x) => (y) { y = Relu(x) }')
    )
    graph.nodes[0].attrs["k"] = value
    line = next(line for line in print_graph(graph).splitlines() if "Relu" in line)
    assert line.strip() == f"?[...] y = Relu<k={expected}>(x)"


def test_names_that_are_no_identifiers_are_quoted() -> None:
    main = helper.make_graph(
        [helper.make_node("Relu", ["x/0:1"], ["layer.1"])],
        "my graph",
        [helper.make_tensor_value_info("x/0:1", 1, [])],
        [helper.make_tensor_value_info("layer.1", 1, [])],
    )
    text = print_graph(from_proto(helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)])))
    assert text.splitlines()[1:3] == [
        "'my graph' (float 'x/0:1') => (float layer.1) {",
        "  float layer.1 = Relu('x/0:1')",
    ]


def test_strings_and_defaults() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float x, float[2] w) => (float[2] y) { y = Add(x, w) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(["a", "ü"], object), "unused"))
    text = print_graph(from_proto(model))
    assert "float[2] w = {1, 2}) => " in text
    assert "  string[2] unused = {" in text


def test_each_difference_of_two_graphs_shows() -> None:
    """Another edge, attribute, type, constant, operator, domain or order is another text."""

    def rename(graph: gs.Graph) -> None:
        graph.outputs[0].name = "z"

    changes = [
        lambda g: g.nodes[0].attrs.__setitem__("beta", 3),
        lambda g: g.nodes[0].inputs.__setitem__(0, g.inputs[2]),
        lambda g: setattr(g.nodes[0], "op", "Other"),
        lambda g: setattr(g.nodes[0], "domain", "other"),
        lambda g: setattr(g.nodes[0].outputs[0], "shape", ["N", 5]),
        lambda g: setattr(g.nodes[0].outputs[0], "dtype", np.dtype(np.float16)),
        lambda g: g.nodes.reverse(),
        lambda g: setattr(g, "opset", 18),
        lambda g: g.inputs.reverse(),
        lambda g: g.nodes[1].attrs["then_branch"].nodes[0].inputs.__setitem__(1, gs.Constant("w", np.ones(4))),
        rename,
    ]
    texts = []
    for change in changes:
        graph = everything()
        change(graph)
        texts.append(print_graph(graph))
    assert len({PRINTED, *texts}) == len(changes) + 1


def test_zoo_models_print_the_same_each_time(zoo: Any) -> None:
    for name in zoo.names:
        text = print_graph(load(zoo.model(name)))
        assert text == print_graph(load(zoo.model(name)))
        assert text == print_graph(from_proto(to_proto(load(zoo.model(name)))))
