"""Random layers with random arithmetic around them: whatever is folded, the outputs stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lpcc.graph import from_proto, to_proto
from lpcc.match import NoMatch
from lpcc.passes.normalize.linear import Linear
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.testing import assert_equivalent

FOLDS = "fold-bn,fold-affine"


class Builder:
    """A model of one output, node by node."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, positive: bool = False) -> str:
        values = self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.standard_normal(shape)
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def batch_norm(self, tensor: str, channels: int) -> str:
        parameters = [self.weight(channels), self.weight(channels), self.weight(channels)]
        return self.node("BatchNormalization", tensor, *parameters, self.weight(channels, positive=True))

    def model(self, shape: list[int], result: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model)
        for dim in model.graph.output[0].type.tensor_type.shape.dim:
            assert dim.HasField("dim_value")
        return model


def folded(model: onnx.ModelProto, text: str = FOLDS) -> list[str]:
    """Operators that are left after folding; the model before and after must agree."""
    graph = from_proto(model)
    run_pipeline(graph, Pipeline.parse(text), Context())
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert_equivalent(model, after)
    return [node.op_type for node in after.graph.node]


@st.composite
def layers(draw, kinds=("Conv", "ConvTranspose")):
    """A builder with a random convolution of any kind; its input shape, its channels in and out, and its attributes."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {"group": groups, "kernel_shape": kernel}
    attributes["strides"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    kind = draw(st.sampled_from(kinds))
    padding = draw(st.sampled_from(("none", "pads", "VALID", "SAME_UPPER", "SAME_LOWER")))
    if padding == "pads":
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in kernel + kernel]
    elif padding != "none" and kind == "Conv":
        attributes["auto_pad"] = padding
    if not padding.startswith("SAME"):
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    shape = [2, inputs] + [draw(st.integers(5, 6)) for _ in range(rank)]
    return Builder(draw(st.integers(0, 2**16))), kind, shape, outputs, attributes, draw(st.booleans())


def convolve(build: Builder, kind: str, x: str, inputs: int, outputs: int, attributes: dict, bias: bool) -> str:
    groups, kernel = attributes["group"], attributes["kernel_shape"]
    first, second = (outputs, inputs // groups) if kind == "Conv" else (inputs, outputs // groups)
    weights = [build.weight(first, second, *kernel)] + ([build.weight(outputs)] if bias else [])
    return build.node(kind, x, *weights, **attributes)


@settings(deadline=None, max_examples=60)
@given(layers())
def test_batch_norm_behind_any_convolution(layer):
    build, kind, shape, outputs, attributes, bias = layer
    y = convolve(build, kind, "x", shape[1], outputs, attributes, bias)
    assert folded(build.model(shape, build.batch_norm(y, outputs))) == [kind]


@settings(deadline=None, max_examples=60)
@given(layers(), st.sampled_from(("Mul", "Add", "BatchNormalization")))
def test_arithmetic_before_any_convolution(layer, op):
    build, kind, shape, outputs, attributes, bias = layer
    channels = [shape[1]] + [1] * (len(shape) - 2)
    x = build.batch_norm("x", shape[1]) if op == "BatchNormalization" else build.node(op, "x", build.weight(*channels))
    left = folded(build.model(shape, convolve(build, kind, x, shape[1], outputs, attributes, bias)))
    padded = any(attributes.get("pads", [])) or attributes.get("auto_pad", "").startswith("SAME")
    assert left == ([kind] if op == "Mul" or (kind == "Conv" and not padded) else [op, kind])


@settings(deadline=None, max_examples=100)
@given(layers(kinds=("Conv",)), st.data())
def test_constants_of_any_shape_behind_a_convolution(layer, data):
    build, kind, shape, outputs, attributes, bias = layer
    y = convolve(build, kind, "x", shape[1], outputs, attributes, bias)
    typed = build.model(shape, y).graph.output[0].type.tensor_type.shape
    sizes = [dim.dim_value for dim in typed.dim]
    for _ in range(data.draw(st.integers(1, 3))):
        drop = data.draw(st.integers(0, len(sizes)))
        constant = [data.draw(st.sampled_from((1, size))) for size in sizes[drop:]]
        op = data.draw(st.sampled_from(("Mul", "Add", "Sub", "Div")))
        operands = [y, build.weight(*constant, positive=True)]
        if op != "Div":  # divided by y, which may be close to 0, rounding would grow without bound
            operands = data.draw(st.permutations(operands))
        y = build.node(op, *operands)
    folded(build.model(shape, y))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_arithmetic_around_products(data):
    build = Builder(data.draw(st.integers(0, 2**16)))
    rows, inside, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    trans_a, trans_b = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    gemm = data.draw(st.booleans())
    shape = [inside, rows] if gemm and trans_a else [rows, inside]
    x = "x"
    for _ in range(data.draw(st.integers(0, 2))):
        constant = data.draw(st.sampled_from(([], [1], [shape[1]], [1, shape[1]], [shape[0], 1], shape)))
        x = build.node(data.draw(st.sampled_from(("Mul", "Add"))), x, build.weight(*constant))
    if gemm:
        bias = data.draw(st.sampled_from((None, [], [1], [columns], [1, columns], [rows, 1], [rows, columns])))
        weights = [build.weight(*([columns, inside] if trans_b else [inside, columns]))]
        weights += [] if bias is None else [build.weight(*bias)]
        scales = {"alpha": data.draw(st.sampled_from((1.0, 0.5))), "beta": data.draw(st.sampled_from((1.0, 2.0)))}
        y = build.node("Gemm", x, *weights, transA=trans_a, transB=trans_b, **scales)
    else:
        y = build.node("MatMul", x, build.weight(inside, columns))
    for _ in range(data.draw(st.integers(0, 2))):
        constant = data.draw(st.sampled_from(([], [1], [columns], [1, columns], [rows, 1], [rows, columns])))
        y = build.node(data.draw(st.sampled_from(("Mul", "Add"))), y, build.weight(*constant))
    if data.draw(st.booleans()):
        y = build.batch_norm(y, columns)
    if y != "x":
        folded(build.model(shape, y), "fuse-matmul-add," + FOLDS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_keep_their_type(dtype):
    text = """<ir_version: 10, opset_import: ["": 17]>
    g ({t}[1,2,4,4] x) => ({t}[1,2,4,4] y) <{t}[2,2,1,1] w, {t}[2] b, {t}[2,1,1] s>
    {{ c = Conv(x, w, b)  y = Mul(c, s) }}""".format(t={"float64": "double"}.get(dtype, dtype))
    from lpcc.testing.golden import read_model

    graph = from_proto(read_model(text))
    run_pipeline(graph, Pipeline.parse(FOLDS), Context())
    (node,) = graph.nodes
    assert [np.dtype(t.dtype).name for t in node.inputs[1:]] == [dtype, dtype]
    assert [t.values.dtype.name for t in node.inputs[1:]] == [dtype, dtype]


def test_scale_that_half_precision_cannot_hold_is_refused():
    from lpcc import edit
    from lpcc.testing.golden import read_model

    text = """<ir_version: 10, opset_import: ["": 17]>
    g (float16[1,2,4,4] x) => (float16[1,2,4,4] y) <float16[2,2,1,1] w> { y = Conv(x, w) }"""
    graph = from_proto(read_model(text))
    layer = Linear.of(graph.nodes[0])
    with edit.Edit(graph) as e:
        for scale in (1e-6, 1e8):
            with pytest.raises(NoMatch, match="float16"):
                layer.scale_outputs(e, np.array(scale), np.array(0.0))
    assert graph.nodes[0].inputs[1] is layer.weight


def test_time_is_linear():
    """A model of 20,000 nodes takes seconds, not minutes."""
    import time

    nodes = [
        helper.make_node(("Conv", "Mul", "Add", "Relu")[index % 4], inputs, [f"t{index}"])
        for index in range(20_000)
        for inputs in [[f"t{index - 1}" if index else "x"] + [[f"w{index % 4}"], ["s"], ["s"], []][index % 4]]
    ]
    weights = [("w0", (4, 4, 1, 1)), ("s", (4, 1, 1))]
    arrays = [numpy_helper.from_array(np.full(shape, 0.3, np.float32), name) for name, shape in weights]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 2])
    y = helper.make_tensor_value_info("t19999", TensorProto.FLOAT, [1, 4, 2, 2])
    graph = from_proto(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y], arrays), opset_imports=[helper.make_opsetid("", 17)])
    )
    text = (
        "merge-pad,recognise-layer-norm,recognise-activations,fuse-matmul-add,fold-bn,fold-affine,"
        "recognise-channel-shuffle"
    )
    start = time.process_time()
    for item in Pipeline.parse(text):
        item.run(graph, Context())
    assert time.process_time() - start < 20
    assert len(graph.nodes) == 10_000
