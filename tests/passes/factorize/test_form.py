from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from lpcc import edit
from lpcc.calibrate.patches import Window
from lpcc.graph import from_proto
from lpcc.passes.factorize.form import Declined, Form


def declined(model: onnx.ModelProto) -> str:
    """Why its first layer is declined."""
    graph = from_proto(model)
    with pytest.raises(Declined) as why:
        Form.of(next(iter(graph.nodes)))
    return str(why.value)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_matrix_is_what_rows_are_multiplied_with(random_layer, data):
    model = random_layer(data.draw)
    [node] = from_proto(model).nodes
    form = Form.of(node)
    weights = np.asarray(node.inputs[1].values)
    if node.op != "ConvTranspose":
        np.testing.assert_array_equal(form.matrix, Window.of(node, weights.shape).matrix(weights))
    assert form.matrix.shape == (form.groups, form.inputs * int(np.prod(form.kernel)), form.outputs)
    assert form.tensor.dtype == np.float64
    other = np.random.default_rng(0).standard_normal(form.matrix.shape)
    np.testing.assert_array_equal(form.with_matrix(other).matrix, other)
    np.testing.assert_array_equal(form.with_matrix(form.matrix).tensor, form.tensor)
    assert form.is_pointwise == (weights[0, 0].size == 1 if node.op.startswith("Conv") else True)


def test_a_transposed_convolution(layer):
    weights = np.random.default_rng(0).standard_normal((6, 5, 2, 3)).astype(np.float32)
    attrs = {"strides": [2, 3], "dilations": [1, 2], "pads": [1, 0, 0, 2], "output_padding": [1, 2], "group": 2}
    [node] = from_proto(layer("ConvTranspose", weights, (1, 6, 4, 5), None, 17, **attrs)).nodes
    form = Form.of(node)
    assert form.tensor.shape == (2, 5, 3, 2, 3)
    np.testing.assert_array_equal(form.tensor[1, 4, 2], weights[5, 4])
    assert (form.strides, form.dilations, form.pads, form.output_padding) == ((2, 3), (1, 2), (1, 0, 0, 2), (1, 2))


def test_what_is_not_said_has_its_default(layer):
    form = Form.of(from_proto(layer("Conv", np.ones((2, 3, 3)), (1, 3, 9))).nodes[0])
    assert (form.strides, form.dilations, form.pads, form.output_padding) == ((1,), (1,), (0, 0), (0,))
    assert form.auto_pad == "NOTSET"
    padded = Form.of(from_proto(layer("Conv", np.ones((2, 3, 3)), (1, 3, 9), auto_pad="SAME_LOWER")).nodes[0])
    assert (padded.auto_pad, padded.pads) == ("SAME_LOWER", (0, 0))
    assert Form.of(from_proto(layer("MatMul", np.ones((4, 3)), (2, 4))).nodes[0]).kernel == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(layer, bad):
    weights = np.ones((2, 3, 3, 3))
    weights[1, 1, 1, 1] = bad
    assert declined(layer("Conv", weights, (1, 3, 9, 9))) == "its weights are not all finite"


def test_weights_that_say_nothing(layer):
    assert declined(layer("Conv", np.zeros((2, 3, 3, 3)), (1, 3, 9, 9))) == "its weights are all zero"
    assert declined(layer("MatMul", np.zeros((3, 0)), (2, 3))) == "it has no weights"


def test_operators_and_weights_that_are_none(layer):
    body = "g (float[2,4] x, float[4,4] v) => (float[2,4] y) "
    heads = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'
    relu = parser.parse_model(heads + body + "{ y = Relu (x) }")
    assert declined(relu) == "a Relu has no weights to factorise"
    assert declined(parser.parse_model(heads + body + "{ y = my.MatMul (x, v) }")).startswith("a my::MatMul")
    assert declined(parser.parse_model(heads + body + "{ y = MatMul (x, v) }")) == "its weights are not constant"
    first = parser.parse_model(heads + body + "{ y = MatMul (w, x) }")
    first.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), np.float32), "w"))
    assert declined(first) == "its weights are not constant"


def test_weights_that_two_layers_read():
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,4] x) => (float[2,4] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, w) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "w"))
    assert declined(model) == "it shares its weights with another layer"


def test_products_that_are_none(layer):
    rng = np.random.default_rng(0)
    gemm = layer("Gemm", rng.standard_normal((4, 5)), (4, 2), transA=1)
    assert declined(gemm) == "it transposes its input"
    batched = layer("MatMul", rng.standard_normal((2, 4, 5)), (2, 3, 4))
    assert declined(batched) == "a MatMul with weights of shape [2, 4, 5] is not one matrix product"
    integers = layer("MatMul", np.ones((4, 5), np.int32), (3, 4))
    assert declined(integers) == "its weights are of type int32"


def test_transposed_convolutions_whose_padding_is_not_told(layer):
    weights = np.ones((3, 2, 3, 3))
    for attrs in ({"auto_pad": "SAME_UPPER"}, {"output_shape": [9, 9]}):
        model = layer("ConvTranspose", weights, (1, 3, 4, 4), None, 17, strides=[2, 2], **attrs)
        assert declined(model) == "its padding follows from the sizes of its output"


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_float_types(dtype):
    weights = np.arange(12).reshape(4, 3).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 4])],
        [helper.make_tensor_value_info("y", kind, [2, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    [node] = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).nodes
    assert edit.op(node) == "MatMul"
    np.testing.assert_array_equal(Form.of(node).matrix[0], np.arange(12.0).reshape(4, 3))
