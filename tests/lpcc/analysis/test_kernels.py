"""The kernel analysis is held to what onnxruntime itself makes of a model: the optimised model that it saves."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lpcc import edit
from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto

ARM = platform.machine().lower() in ("aarch64", "arm64")
CONVS = ("conv", "pointwise", "depthwise")


def model(body: str, *, inputs: str = "float[1,8,8,8] x", outputs: str = "float[a,b,c,d] y") -> onnx.ModelProto:
    """A model from ONNX's text syntax, with constants of the usual names at hand."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "z0": np.uint8(0),
        "s6": np.float32(6 / 255),
        "zs": np.int8(0),
        "sw": np.float32(0.01),
        "w8": rng.integers(-127, 128, (8, 8, 1, 1)).astype(np.int8),
        "d8": rng.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8),
        "w": rng.standard_normal((8, 8, 1, 1)).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
        "v": rng.random(8).astype(np.float32) + 0.5,
        "v4": rng.random((1, 8, 1, 1)).astype(np.float32) + 0.5,
        "zero": np.float32(0),
        "six": np.float32(6),
        "flat": np.array([1, 64, 8]),
        "starts": np.array([1]),
        "ends": np.array([5]),
        "axes": np.array([1]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "two": np.array([1, 0]),
        "first": np.array([0]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items() if name in read
    )
    return onnx.shape_inference.infer_shapes(proto)


def ours(proto: onnx.ModelProto, *, x86: bool = not ARM) -> tuple[Kernel, ...]:
    graph = from_proto(proto)
    annotate(graph)
    return kernels(graph, isa=("x86",) if x86 else ("aarch64",))


def theirs(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators of the model as onnxruntime runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx", load_external_data=False).graph.node)


def compare(proto: onnx.ModelProto, folder: Path) -> None:
    """Integer and float convolutions, and the conversions that stay, are as many as in onnxruntime."""
    mine = Counter(
        "integer conv" if k.kind in CONVS and k.dtype == "int8" else "float conv" if k.kind in CONVS else k.kind
        for k in ours(proto)
    )
    run = theirs(proto, folder)
    assert mine["integer conv"] == run["QLinearConv"]
    assert mine["float conv"] == run["Conv"] + run["FusedConv"]
    assert mine["quantize"] == run["QuantizeLinear"]
    assert mine["dequantize"] == run["DequantizeLinear"]


def mine_layout(proto: onnx.ModelProto) -> int:
    """Changes of layout that the runtime puts in by itself."""
    return sum(not kernel.nodes for kernel in ours(proto))


def test_changes_of_layout() -> None:
    body = Q + CONV.format("c", "a") + "e = QuantizeLinear(c, s, z) f = DequantizeLinear(e, s, z) "
    body += "l = DequantizeLinear(w8, sw, zs) g = Conv(f, l) q1 = QuantizeLinear(g, s, z) " + DQ
    kinds = [(k.kind, bool(k.nodes)) for k in ours(model(body))]
    assert kinds == [
        ("quantize", True),
        ("transpose", False),
        ("pointwise", True),
        ("pointwise", True),
        ("transpose", False),
        ("dequantize", True),
    ], "once for a chain of convolutions"


Q, DQ = "q0 = QuantizeLinear(x, s, z) a = DequantizeLinear(q0, s, z) ", "y = DequantizeLinear(q1, s, z) "
CONV = "k = DequantizeLinear(w8, sw, zs) {0} = Conv({1}, k) "
OPERATORS = {
    "MaxPool": "MaxPool <kernel_shape = [2, 2]> ({})",
    "Reshape": "Reshape({}, flat)",
    "Flatten": "Flatten({})",
    "Transpose": "Transpose <perm = [0, 2, 3, 1]> ({})",
    "Slice": "Slice({}, starts, ends, axes)",
    "Pad": "Pad({}, pads)",
    "nearest Resize": 'Resize <mode = "nearest"> ({}, , scales)',
    "linear Resize": 'Resize <mode = "linear"> ({}, , scales)',
    "Unsqueeze": "Unsqueeze({}, first)",
    "Gather": "Gather <axis = 1> ({}, two)",
    "Relu": "Relu({})",
    "Clip": "Clip({}, zero, six)",
    "AveragePool": "AveragePool <kernel_shape = [2, 2]> ({})",
    "GlobalAveragePool": "GlobalAveragePool({})",
    "GlobalMaxPool": "GlobalMaxPool({})",
    "LeakyRelu": "LeakyRelu({})",
    "Sigmoid": "Sigmoid({})",
    "Softmax": "Softmax({})",
    "HardSigmoid": "HardSigmoid({})",
    "Tanh": "Tanh({})",
    "ReduceMean": "ReduceMean <axes = [2, 3]> ({})",
    "ReduceMax": "ReduceMax <axes = [2, 3]> ({})",
    "DepthToSpace": "DepthToSpace <blocksize = 2> ({})",
    "SpaceToDepth": "SpaceToDepth <blocksize = 2> ({})",
    "Identity": "Identity({})",
    "Add": "Add({0}, {0})",
    "Mul": "Mul({0}, {0})",
    "Sub": "Sub({0}, {0})",
    "Div": "Div({0}, {0})",
    "Max": "Max({0}, {0})",
    "Concat": "Concat <axis = 1> ({0}, {0})",
    "Exp": "Exp({})",
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_between_dequantize_and_quantize(operator: str, tmp_path: Path) -> None:
    body = OPERATORS[operator].format("a")
    compare(model(Q + f"c = {body} q1 = QuantizeLinear(c, s, z) " + DQ, outputs="float[] y"), tmp_path)


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_between_a_convolution_and_quantize(operator: str, tmp_path: Path) -> None:
    body = OPERATORS[operator].format("c")
    proto = model(Q + CONV.format("c", "a") + f"d = {body} q1 = QuantizeLinear(d, s, z) " + DQ, outputs="float[] y")
    compare(proto, tmp_path)


@pytest.mark.parametrize("operator", ["MaxPool", "Transpose", "Slice", "Identity", "Relu", "Add", "Sigmoid", "Concat"])
def test_operator_between_dequantize_and_a_float_operator(operator: str, tmp_path: Path) -> None:
    body = OPERATORS[operator].format("a")
    compare(model(Q + f"c = {body} d = Exp(c) q1 = QuantizeLinear(d, s, z) " + DQ, outputs="float[] y"), tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        Q + CONV.format("c", "a") + "r = Relu(c) q1 = QuantizeLinear(r, s, z0) y = DequantizeLinear(q1, s, z0)",
        Q + CONV.format("c", "a") + "r = Clip(c, zero, six) q1 = QuantizeLinear(r, s6, z0) "
        "y = DequantizeLinear(q1, s6, z0)",
        Q + CONV.format("c", "a") + "r = Clip(c, zero, six) q1 = QuantizeLinear(r, s, z0) "
        "y = DequantizeLinear(q1, s, z0)",
        Q + CONV.format("c", "a") + "y = Relu(c)",
        Q + CONV.format("c", "a") + "q1 = QuantizeLinear(c, s, z) d = DequantizeLinear(q1, s, z) y = Add(a, d)",
        Q + "k = DequantizeLinear(d8, sw, zs) c = Conv <group = 8, pads = [1, 1, 1, 1]> (a, k) "
        "q1 = QuantizeLinear(c, s, z) " + DQ,
    ],
    ids=["relu-fits", "clip-fits", "clip-cuts", "no-quantize", "float-add", "depthwise"],
)
def test_convolution_groups(body: str, tmp_path: Path) -> None:
    compare(model(body, outputs="float[] y"), tmp_path)


def test_the_conversions_that_an_island_leaves_are_paid_for() -> None:
    fused = ours(model(Q + CONV.format("c", "a") + "q1 = QuantizeLinear(c, s, z) " + DQ))
    assert [k.kind for k in fused if k.nodes] == ["quantize", "pointwise", "dequantize"]
    (conv,) = (k for k in fused if k.kind == "pointwise")
    assert (conv.dtype, conv.scheme, conv.macs) == ("int8", "u8s8", 8 * 8 * 64)
    assert [o.nbytes for o in (*conv.inputs, *conv.outputs)] == [512, 512]
    island = ours(model(Q + CONV.format("c", "a") + "e = Exp(c) q1 = QuantizeLinear(e, s, z) " + DQ))
    assert [k.kind for k in island] == [
        "quantize", "dequantize", "dequantize", "pointwise", "activation", "quantize", "dequantize",
    ]  # fmt: skip
    assert island[3].dtype == "float32"


def test_integers_travel_through_reshapes_without_quantize() -> None:
    body = Q + "r = Reshape(a, flat) t = Transpose <perm = [0, 2, 1]> (r) q1 = QuantizeLinear(t, s, z) " + DQ
    steps = ours(model(body, outputs="float[a,b,c] y"))
    assert [(k.kind, k.dtype) for k in steps] == [
        ("quantize", "int8"), ("view", "int8"), ("transpose", "int8"), ("dequantize", "int8"),
    ]  # fmt: skip
    assert steps[2].bytes == 2 * 512


def test_float_fusions() -> None:
    def ops(body: str) -> list[list[str]]:
        return [[edit.op(node) for node in kernel.nodes] for kernel in ours(model(body), x86=False)]

    assert ops("c = Conv(x, w) n = BatchNormalization(c, v, b, b, v) y = Relu(n)") == [
        ["Conv", "BatchNormalization", "Relu"]
    ]
    assert ops("c = Conv(x, w) e = Mul(c, v4) y = Clip(e, zero, six)") == [["Conv", "Mul", "Clip"]]
    assert ops("c = Conv(x, w, b) a = Add(c, x) y = Relu(a)") == [["Conv", "Add", "Relu"]]
    assert ops("c = Conv(x, w) a = Add(c, x) y = Relu(a)") == [["Conv"], ["Add"], ["Relu"]], "no bias"
    assert ops("c = Conv(x, w) a = Relu(c) y = Add(c, a)") == [["Conv"], ["Relu"], ["Add"]], "two readers"
    assert ops("c = Conv(x, w) e = Mul(c, b) y = Relu(e)") == [["Conv"], ["Mul"], ["Relu"]], "[W], not the channels"
    assert ops("c = Conv(x, x) n = BatchNormalization(c, v, b, b, v) y = Relu(n)")[0] == ["Conv"], "no constant"


def test_a_graph_output_in_the_middle_is_not_fused_away() -> None:
    proto = model("c = Conv(x, w) y = Relu(c)", outputs="float[a,b,c,d] y, float[e,f,g,h] c")
    assert [k.kind for k in ours(proto, x86=False)] == ["pointwise", "elementwise"]


def test_cmsis_nn_adds_residuals_by_a_kernel_of_their_own() -> None:
    graph = from_proto(model("c = Conv(x, w) y = Add(c, x)"))
    annotate(graph)
    assert [k.kind for k in kernels(graph, runtime="cmsis-nn")] == ["pointwise", "elementwise"]


def test_what_is_computed_from_constants_costs_nothing() -> None:
    assert [k.kind for k in ours(model("n = Shape(x) k = Add(w, w) c = Conv(x, k) y = Reshape(c, n)"), x86=False)] == [
        "pointwise",
        "view",
    ]


def test_kinds_of_convolution() -> None:
    def kind(weights: str, attrs: str) -> str:
        text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,8,8] x, float{weights} w) => (float[a,b,c,d] y)
                   {{ y = Conv {attrs} (x, w) }}"""
        (kernel,) = ours(onnx.parser.parse_model(text))
        return kernel.kind

    assert kind("[8,8,3,3]", "") == "conv"
    assert kind("[8,8,1,1]", "") == "pointwise"
    assert kind("[8,1,3,3]", "<group = 8>") == "depthwise"
    assert kind("[8,4,1,1]", "<group = 2>") == "grouped"


def test_bodies_of_if_are_counted_before_the_node_that_holds_them() -> None:
    then = onnx.parser.parse_graph("g () => (float[1,8,8,8] t) { t = Conv(x, w) }")
    other = onnx.parser.parse_graph("g () => (float[1,8,8,8] t) { t = Relu(x) }")
    proto = model("y = Exp(x)", inputs="float[1,8,8,8] x, bool c", outputs="float[a,b,c,d] y, float[e,f,g,h] u")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), "w"))
    proto.graph.node.append(onnx.helper.make_node("If", ["c"], ["u"], then_branch=then, else_branch=other))
    steps = [(k.kind, k.inner) for k in ours(proto)]
    assert steps[0] == ("activation", 0)
    assert sorted(steps[1:3]) == [("elementwise", 1), ("pointwise", 1)]
    assert steps[3:] == [("other", 0)]


@pytest.mark.parametrize("name", ["cifar10_resnet20_jpegft", "mlperf_resnet8_cifar10", "fashion_mnist_vgg"])
@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_quantised_networks(zoo, name: str, activations: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    feeds = zoo.calib(name, 2)

    class Reader(CalibrationDataReader):
        left = 2

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return None if self.left < 0 else {key: value[self.left :][:1] for key, value in feeds.items()}

    path = tmp_path / "quantised.onnx"
    quantize_static(
        str(zoo.model(name)),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    proto = onnx.load(path)
    mine = Counter((k.kind in CONVS, k.dtype) for k in ours(proto))
    run = theirs(proto, tmp_path)
    assert mine[True, "int8"] == run["QLinearConv"]
    assert mine[True, "float32"] == run["Conv"] + run["FusedConv"]
    layout = run["Transpose"] + run["ReorderInput"] + run["ReorderOutput"]
    assert abs(mine_layout(proto) - layout) <= 1  # a transpose of one pixel is free, and is not counted here
    if activations == "u8":
        compare(proto, tmp_path)


@pytest.mark.skipif(ARM, reason="channels are blocked on x86 only")
def test_float_networks(zoo, tmp_path: Path) -> None:
    for name in ("fashion_mnist_vgg", "mobilenetv2_imagenet", "squeezenet1_1_imagenet"):
        proto = onnx.load(zoo.model(name))
        run = theirs(proto, tmp_path)
        assert len(ours(proto)) == sum(run.values())


def test_weights_in_four_bits_are_dequantised_at_every_inference(tmp_path: Path) -> None:
    proto = model(
        "q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) k = DequantizeLinear(w4, s)"
        "c = Conv(a, k) r = QuantizeLinear(c, s, z) y = DequantizeLinear(r, s, z)"
    )
    proto.opset_import[0].version = 21
    proto.ir_version = 10
    proto.graph.initializer.append(
        onnx.helper.make_tensor("w4", onnx.TensorProto.INT4, [8, 8, 1, 1], [*range(-8, 8)] * 4)
    )
    compare(proto, tmp_path)
    assert [k.dtype for k in ours(proto) if k.kind in CONVS] == ["float32"]
