from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from lpcc.analysis.shape_values import shape_values
from lpcc.analysis.sizes import Size
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.runtime import Session, with_outputs

HEAD = '<ir_version: 8, opset_import: ["": 17]>'

SHAPES = {
    "window": "y = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w) z = MaxPool <kernel_shape = [2,2]> (y) u = Relu (z)",
    "dilated": "y = Conv <dilations = [2,1], pads = [2,0,2,0]> (x, w) z = AveragePool <kernel_shape = [3,3]> (y)",
    "same": 'y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w)',
    "ceil": "y = MaxPool <kernel_shape = [2,2], ceil_mode = 1, strides = [3,3]> (x)",
    "layout": "y = Transpose <perm = [0,2,3,1]> (x) z = Concat <axis = 1> (y, y) u = Flatten <axis = 2> (z)",
    "squeeze": "y = GlobalAveragePool (x) z = Squeeze (y, i23) u = Unsqueeze (z, i23) v = Mul (x, u)",
    "reduce": "y = ReduceMean <axes = [2,3], keepdims = 0> (x) z = ReduceSum (x, i23) u = ReduceMax <axes = [1]> (x)",
    "reshape": "y = Reshape (x, t) z = Reshape (y, s)",
    "slices": "y = Slice (x, i0, big, i2) z = Slice (x, i2, big, i3) u = Pad (x, p)",
    "split": "y, z = Split <axis = 1> (x) u = Add (y, z)",
    "gather": "y = Gather <axis = 1> (x, i23) z = Gather <axis = 2> (x, zero)",
    "resize": "y = Resize (x, , scales) z = DepthToSpace <blocksize = 2> (x) u = SpaceToDepth <blocksize = 2> (z)",
    "gemm": "f = GlobalAveragePool (x) g = Flatten (f) y = Gemm <transB = 1> (g, m) z = MatMul (g, m4)",
    "broadcast": "y = Add (x, row) z = Where (yes, row, x) u = Max (x, row, row)",
    "expand": "q = Shape (x) y = Expand (row, q) z = ConstantOfShape (q)",
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dims", [(1, 6, 8), (3, 4, 10)])
def test_sizes_hold(name, dims):
    """Every size that is found is what onnxruntime makes; sizes that are equal are so in fact."""
    text = f"""{HEAD} g (float[N,4,H,W] x) => (float[N,4,H,W] out)
        <float[2,4,3,3] w, int64[2] i23 = {{2,3}}, int64[3] t = {{0,2,-1}}, int64[2] s = {{-1, 2}}, int64[1] i0 = {{0}},
         int64[1] i2 = {{2}}, int64[1] i3 = {{3}}, int64[1] big = {{9223372036854775807}}, int64 zero = {{0}},
         int64[8] p = {{0,0,1,0,0,0,2,-1}}, float[4] scales = {{1,1,2,1.5}}, float[5,4] m, float[4,4] m4,
         float[4,1,1] row, bool yes = {{1}}>
        {{ out = Relu (x) {SHAPES[name]} }}"""
    model = onnx.parser.parse_model(text)
    for info in model.graph.value_info:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, info.name))
    graph = from_proto(model)
    annotate(graph)
    found = shape_values(graph)
    made = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs}
    feeds = {"x": np.zeros((dims[0], 4, *dims[1:]), dtype=np.float32)}
    results = Session(with_outputs(model, list(made)), optimise=False).run(feeds, list(made))
    actual = dict(zip(found.dims(graph.inputs[0]), feeds["x"].shape, strict=True))
    for tensor in made.values():
        sizes = found.dims(tensor)
        assert sizes is not None, tensor.name
        assert len(sizes) == results[tensor.name].ndim
        for size, value in zip(sizes, results[tensor.name].shape, strict=True):
            if isinstance(size, Size) and len(size.terms) == 1 and size.terms[0][1] == 1 and len(size.terms[0][0]) == 1:
                assert actual.setdefault(size, value) == value, (tensor.name, sizes)
    unknowns = {size.terms[0][0][0]: value for size, value in actual.items() if isinstance(size, Size)}
    for tensor in made.values():
        for size, value in zip(found.dims(tensor), results[tensor.name].shape, strict=True):
            assert evaluate(size, unknowns) in (value, None), (tensor.name, found.dims(tensor))


def evaluate(size, unknowns):
    if isinstance(size, int):
        return size
    total = 0
    for numbers, factor in size.terms:
        for number in numbers:
            if number not in unknowns:
                return None
            factor *= unknowns[number]
        total += factor
    return total


VALUES = {
    "slice": "v = Slice (s, i1, i3)",
    "backwards": "v = Slice (s, last, first, i0, last)",
    "gather": "v = Gather (s, order)",
    "negative": "g = Gather (s, last) v = Concat <axis = 0> (g, i3)",
    "arithmetic": "a = Mul (s, i3) b = Sub (a, i1) c = Add (b, i1) v = Div (c, i3)",
    "size": "a = Size (x) v = Unsqueeze (a, i0)",
    "product": "v = ReduceProd (s)",
    "part": "v = Shape <start = -3, end = -1> (x)",
    "cast": "a = Cast <to = 6> (s) v = Cast <to = 7> (a)",
    "where": "a = Equal (s, minus) v = Where (a, i1, s)",
    "split": "a, v = Split <axis = 0> (s)",
    "floats are not followed": "a = Cast <to = 1> (s) b = Mul (a, half) v = Cast <to = 7> (b)",
    "range": "v = Range (k1, k9, k2)",
    "filled": "a = Shape (s) v = ConstantOfShape <value = int64[1] {5}> (a)",
    "extreme": "a = Max (s, s) v = Min (a, s)",
    "reshape": "a = Reshape (s, i22) v = Flatten <axis = 0> (a)",
}


@pytest.mark.parametrize("name", VALUES)
def test_values_hold(name):
    text = f"""{HEAD} g (float[N,4,H,6] x) => (float[N,4,H,6] out)
        <int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i3 = {{3}}, int64[1] last = {{-1}}, int64[1] minus = {{-1}},
         int64[1] first = {{-100}}, int64[3] order = {{3,0,-2}}, float half = {{0.5}}, int64 k1 = {{1}},
         int64 k9 = {{9}}, int64 k2 = {{2}}, int64[2] i22 = {{2,2}}>
        {{ out = Relu (x) s = Shape (x) {VALUES[name]} }}"""
    model = onnx.parser.parse_model(text)
    graph = from_proto(model)
    annotate(graph)
    found = shape_values(graph)
    (tensor,) = [tensor for node in graph.nodes for tensor in node.outputs if tensor.name == "v"]
    value = found.value(tensor)
    if name.startswith("floats"):
        assert value is None
        return
    dims = (3, 4, 5, 6)
    expected = Session(with_outputs(model, ["v"]), optimise=False).run({"x": np.zeros(dims, np.float32)}, ["v"])["v"]
    unknowns = {
        size.terms[0][0][0]: actual
        for size, actual in zip(found.dims(graph.inputs[0]), dims, strict=True)
        if isinstance(size, Size)
    }
    assert value.shape == expected.shape
    assert [evaluate(size, unknowns) for size in value.reshape(-1)] == expected.reshape(-1).tolist()


def test_stated_shapes_between_inputs_and_outputs_are_not_believed():
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[N,3] x) => (float[1,3] y) <float[1,3] r> {{ r = Relu (x) y = Abs (r) }}"
    )
    graph = from_proto(model)
    found = shape_values(graph)
    assert found.dims(graph.nodes[0].outputs[0]) == found.dims(graph.inputs[0])
    assert found.static(graph.outputs[0]) is None


def test_equal_names_are_not_equal_sizes():
    graph = from_proto(onnx.parser.parse_model(f"{HEAD} g (float[D,D] x) => (float[D,D] y) {{ y = Relu (x) }}"))
    first, second = shape_values(graph).dims(graph.inputs[0])
    assert first != second


def test_inputs_of_bodies_are_unknown():
    """A shape that a Loop states of what it carries need not hold: the body may change it."""
    text = f"""{HEAD} g (int64 n, bool c, float[1] x) => (float[M] y) {{
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[1] state) => (bool again, float[K] grown) {{
            again = Identity (go) grown = Concat <axis = 0> (state, state) }}>
    }}"""
    graph = from_proto(onnx.parser.parse_model(text))
    body = graph.nodes[0].attrs["body"]
    assert shape_values(graph).static(body.inputs[2]) is None
