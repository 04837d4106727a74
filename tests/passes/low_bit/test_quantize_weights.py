"""Weights in small formats: onnxruntime decodes them to what the format says, at load, and runs every result."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import lpcc
from lpcc import edit
from lpcc.analysis.decoding import decoded
from lpcc.analysis.kernels import kernels
from lpcc.analysis.storage import storage
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.formats.format import TENSOR, Layout
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes import QuantizeWeights
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.pays import Race
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, optimised
from lpcc.runtime.session import with_outputs
from lpcc.testing import check_golden, golden_cases
from lpcc.testing.golden import read_model

NET = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,12,12] x) => (float[N,10] y)
<float[16,3,3,3] first, float[16] b1, float[16,1,3,3] depthwise, float[21,16,1,1] pointwise, float[21,9,2,2] up,
 float[9,3,3,3] grouped, float[9] b4, float[9,8] product, float[10,8] last, float[10] b6, int64[2] sizes = {0, -1}>
{
    a = Conv<pads = [1,1,1,1]>(x, first, b1)
    r = Relu(a)
    b = Conv<pads = [1,1,1,1], group = 16>(r, depthwise)
    c = Conv(b, pointwise)
    d = ConvTranspose<strides = [2,2]>(c, up)
    e = Conv<group = 3, strides = [2,2], auto_pad = "SAME_UPPER">(d, grouped, b4)
    f = GlobalAveragePool(e)
    h = Reshape(f, sizes)
    i = MatMul(h, product)
    y = Gemm<transB = 1, alpha = 0.5>(i, last, b6)
}
"""
AXES = {"first": 0, "depthwise": 0, "pointwise": 0, "up": 1, "grouped": 0, "product": 1, "last": 0}

FORMATS = [
    {"format": "int8"},
    {"format": "int4"},
    {"format": "int4", "symmetric": False},
    {"format": "int2", "ends": True},
    {"format": "int2", "ends": True, "symmetric": False},
    {"format": "fixed", "bits": 16},
    {"format": "fixed", "bits": 6, "fraction": 4},
    {"format": "fixed", "bits": 4},
    {"format": "fixed", "overflow": 0.01},
    {"format": "fixed", "bits": 4, "per_channel": True},
    {"format": "pow2"},
    {"format": "pow2", "k": 2, "scale": "power"},
    {"format": "pow2", "k": 3, "bits": 3},
    {"format": "pow2", "bits": 5},
    {"format": "pow2", "bits": 2, "per_channel": False},
    {"format": "pow2", "k": 2, "per_channel": False},
    {"format": "flightnn"},
    {"format": "flightnn", "mean_k": 0.5},
    {"format": "flightnn", "k": 3, "threshold": 0.1},
    {"format": "flightnn", "per_channel": False},
    {"format": "ternary", "ends": True},
    {"format": "ttq", "ends": True},
    {"format": "binary", "ends": True},
    {"format": "binary", "ends": True, "per_channel": False},
    {"format": "dorefa", "ends": True},
    {"format": "dorefa", "bits": 1, "ends": True},
    {"format": "dorefa", "bits": 5},
]


@pytest.mark.parametrize("case", golden_cases("golden/quantize-weights"), ids=lambda path: path.stem)
def test_golden(case, request):
    check_golden(case, Context(), update=bool(request.config.getoption("--update-golden")))


def quantized(model: onnx.ModelProto, **options):
    graph = from_proto(model)
    annotate(graph)
    ctx = Context()
    changes = QuantizeWeights(**options).run(graph, ctx)
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    return result, changes, ctx


def weights_in(graph):
    """The tensors that layers read their weights from, by name of the layer's result."""
    return {n.outputs[0].name: n.inputs[1] for n in graph.nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")}


def feeds(model, count=2, seed=0):
    spec = Session(model).inputs[0]
    rng = np.random.default_rng(seed)
    shape = [size if isinstance(size, int) else count for size in spec.shape]
    return {spec.name: rng.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("options", FORMATS, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
def test_onnxruntime_decodes_to_what_the_format_says(options):
    model = read_model(NET)
    result, changes, ctx = quantized(model, **options)
    assert sum(changes.counts.values()) == 7
    kind = QuantizeWeights(**options).kind()
    read = {name: tensor.name for name, tensor in weights_in(from_proto(result)).items()}
    expected = weights_in(ctx.unquantized)
    for optimise in (False, True):
        found = Session(with_outputs(result, read.values()), optimise=optimise).run(feeds(model), list(read.values()))
        for layer, name in read.items():
            values = np.asarray(expected[layer].values)
            per_channel = options.get("per_channel", options["format"] != "fixed")
            layout = Layout(AXES[expected[layer].name]) if per_channel else TENSOR
            assert np.array_equal(found[name], kind.round(values, kind.fit(values, layout)))


@pytest.mark.parametrize("options", FORMATS, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
def test_it_is_decoded_at_load_and_runs_as_fast_kernels(options):
    model = read_model(NET)
    result, _, _ = quantized(model, **options)
    ops = Counter(node.op_type for node in optimised(result).graph.node)
    before = Counter(node.op_type for node in optimised(model).graph.node)
    assert ops == before
    exact = Session(result, optimise=False).run(feeds(model))["y"]
    np.testing.assert_allclose(Session(result).run(feeds(model))["y"], exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", FORMATS, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
def test_what_it_wrote_is_left_alone_later(options):
    result, _, _ = quantized(read_model(NET), **options)
    graph = from_proto(result)
    before = storage(graph)
    run_pipeline(graph, Pipeline.parse("exact,quantize-weights{format=int8}"), Context())
    assert storage(graph).effective_bits <= before.effective_bits
    again = from_proto(to_proto(graph))
    changes = QuantizeWeights(format="int4").run(again, Context())
    assert not changes
    assert {refusal.reason for refusal in changes.refused[:-1]} == {"its weights are quantised already"}
    for name, tensor in weights_in(graph).items():
        np.testing.assert_allclose(decoded(tensor), decoded(weights_in(from_proto(result))[name]), rtol=1e-6)


PRODUCT = """<ir_version: 8, opset_import: ["": 17]> g (float[{rows},{inputs}] x) => (float[{rows},{outputs}] y)
<float[{shape}] w, float[{outputs}] b> {{ y = {op} }}"""


def product(rows=1, inputs=512, outputs=192, op="Gemm<transB = 1>(x, w, b)"):
    shape = f"{outputs},{inputs}" if "transB" in op else f"{inputs},{outputs}"
    return read_model(PRODUCT.format(rows=rows, inputs=inputs, outputs=outputs, op=op, shape=shape))


@pytest.mark.parametrize("op", ["Gemm<transB = 1>(x, w, b)", "Gemm(x, w, b)", "MatMul(x, w)"])
@pytest.mark.parametrize("kind", ["int8", "int4", "int2"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [None, 16, 128])
def test_large_products_read_the_integers(op, kind, symmetric, block):
    model = product(op=op)
    result, _, _ = quantized(model, format=kind, symmetric=symmetric, block=block, ends=True)
    ops = Counter(node.op_type for node in optimised(result).graph.node)
    assert ops == {"MatMulNBits": 1}
    assert storage(from_proto(result)).effective_bits < int(kind[3:]) + (0.2 if block is None else 96 / block)
    x = feeds(model)
    exact, plain, fused = (
        Session(m, optimise=o).run(x)["y"] for m, o in ((model, True), (result, False), (result, True))
    )
    noise = np.square(plain - exact).sum() / np.square(exact).sum()
    assert noise < {"int8": 1e-3, "int4": 0.02, "int2": 0.5}[kind]
    assert np.square(plain - fused).sum() / np.square(plain).sum() < 1e-3  # it rounds its input to 8 bits


@pytest.mark.parametrize(
    "model",
    [
        product(rows=1, inputs=64, outputs=10),  # too small to wait for memory
        product(rows=64, op="MatMul(x, w)"),  # 2 bits: too many rows
        product(op="Gemm<transB = 1, alpha = 0.5>(x, w, b)"),
    ],
    ids=["small", "rows", "alpha"],
)
def test_other_products_are_decoded_at_load(model):
    result, _, _ = quantized(model, format="int2", ends=True)
    assert not {"MatMulNBits", "DequantizeLinear"} & {node.op_type for node in optimised(result).graph.node}


BEHIND = {
    "Gemm": ("h = Gemm(x, w, b)", "h"),
    "MatMul": ("h = MatMul(x, w)", "h"),
    "MatMul and Add": ("m = MatMul(x, w) h = Add(m, b)", "h"),
}


@pytest.mark.parametrize(("activation", "fuses"), [("Relu(h)", True), ("Clip(h, zero)", False), ("Sigmoid(h)", True)])
@pytest.mark.parametrize("name", BEHIND)
def test_what_stands_behind_a_large_product(name, activation, fuses):
    model = read_model(f"""<ir_version: 8, opset_import: ["": 17]> g (float[N,512] x) => (float[N,4] y)
        <float[512,192] w, float[192] b, float zero = {{0}}, float[192,4] v>
        {{ {BEHIND[name][0]} a = {activation} y = MatMul(a, v) }}""")
    result, _, _ = quantized(model, format="int8")
    ops = Counter(node.op_type for node in optimised(result).graph.node)
    assert ops["MatMulNBits"] == fuses
    assert not ops["DequantizeLinear"]
    x = feeds(model)
    expected = Session(model).run(x)["y"]
    assert np.square(Session(result).run(x)["y"] - expected).sum() < 5e-3 * np.square(expected).sum()
    graph = from_proto(result)
    annotate(graph)
    assert not any(kernel.kind == "dequantize" for kernel in kernels(graph, isa=("x86",)))
    again = from_proto(result)
    run_pipeline(again, Pipeline.parse("exact"), Context())
    assert Counter(node.op_type for node in optimised(to_proto(again)).graph.node)["MatMulNBits"] == fuses


def test_an_integer_product_that_does_not_fuse_is_priced_with_its_conversion():
    model = read_model("""<ir_version: 10, opset_import: ["": 21]> g (float[1,512] x) => (float[1,4] y)
        <int8[512,192] w, float[192] s, float[192,4] v>
        { d = DequantizeLinear<axis = 1>(w, s) h = MatMul(x, d) a = Relu(h) y = MatMul(a, v) }""")
    graph = from_proto(model)
    annotate(graph)
    counted = [kernel.kind for kernel in kernels(graph, isa=("x86",))]
    assert counted.count("dequantize") == 1
    assert "DequantizeLinear" in {node.op_type for node in optimised(model).graph.node}


def test_shared_weights_are_written_once():
    model = read_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,4,6,6] x) => (float[N,4,6,6] y) <float[4,4,1,1] w> { a = Conv(x, w) y = Conv(a, w) }""")
    result, changes, _ = quantized(model, format="pow2", k=2)
    assert changes.counts == {"weights of Conv in pow2": 2}
    assert Counter(node.op_type for node in result.graph.node)["Gather"] == 2


def test_weights_in_a_branch():
    model = read_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2,8] x, bool c) => (float[2,3] y) <float[8,3] w> {
            y = If (c) <then_branch = t () => (float[2,3] a) { a = MatMul(x, w) },
                        else_branch = e () => (float[2,3] b) { m = MatMul(x, w) b = Neg(m) }>
        }""")
    result, changes, _ = quantized(model, format="binary", ends=True)
    assert len(changes.rewrites) == 2
    x = np.ones((2, 8), dtype=np.float32)
    w = onnx.numpy_helper.to_array(model.graph.initializer[0])
    for flag, sign in ((True, 1), (False, -1)):
        y = Session(result).run({"x": x, "c": np.array(flag)})["y"]
        np.testing.assert_allclose(
            y, sign * x @ (np.where(w >= 0, 1, -1) * np.abs(w).mean(axis=0)), rtol=1e-5, atol=1e-6
        )


class TestLeftAlone:
    def test_named_layers(self):
        _, changes, _ = quantized(read_model(NET), format="int4", skip=("c", "i"))
        assert {r.node: r.reason for r in changes.refused} == dict.fromkeys(("c", "i"), "named in `skip`")

    def test_ends_in_few_bits(self):
        _, changes, _ = quantized(read_model(NET), format="ternary")
        assert [r.node for r in changes.refused] == ["a", "y"]
        assert len(changes.rewrites) == 5

    def test_an_opset_that_cannot_be_raised(self):
        model = read_model("""<ir_version: 8, opset_import: ["": 13]>
            g (float[N,4,6,6] x) => (float[N,4,6,6] y)
            <float[4,4,1,1] w, float[4] s, float[4] t, float[4] mean, float[4] var>
            { a = Conv(x, w) y, m, v = BatchNormalization<training_mode = 1>(a, s, t, mean, var) }""")
        graph = from_proto(model)
        annotate(graph)
        changes = QuantizeWeights(format="int4").run(graph, Context())
        assert not changes
        assert "int4 needs opset 21" in changes.refused[0].reason
        assert graph.opset == 13
        assert QuantizeWeights(format="int8").run(graph, Context())

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ("double[4,4,1,1] w> { a = Cast<to = 11>(x) b = Conv(a, w) y = Cast<to = 1>(b) }", "are float64"),
            ("float[4,4,1,1] w> { a = Relu(x) y = Conv(a, x) }", "are not constant"),
            (
                "float[4,4,1,1] w, float s> { a = QuantizeLinear(x, s) b = DequantizeLinear(a, s) y = Conv(b, w) }",
                "part of a network that is quantised",
            ),
        ],
    )
    def test_other_layers(self, body, reason):
        model = read_model(f'<ir_version: 8, opset_import: ["": 17]> g (float[4,4,1,1] x) => (float y) <{body}')
        model.graph.output[0].type.tensor_type.ClearField("shape")
        graph = from_proto(model)
        annotate(graph)
        changes = QuantizeWeights().run(graph, Context())
        assert not changes
        assert reason in changes.refused[0].reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "int4", "k": 2}, "`k` means nothing to int4: it is for pow2, flightnn"),
        ({"format": "binary", "bits": 1}, "`bits` means nothing to binary"),
        ({"format": "pow2", "mean_k": 1.5}, "`mean-k` means nothing to pow2: it is for flightnn"),
        ({"format": "int8", "block": 48}, "power of two, not 48"),
        ({"format": "dorefa", "bits": 12}, "DoReFa weights have 1 to 8 bits"),
        ({"format": "flightnn", "k": 1, "mean_k": 2}, "between 0 and k = 1"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with pytest.raises(UsageError, match=message):
        QuantizeWeights(**options)


def test_text_form():
    text = "quantize-weights{format=flightnn k=3 mean-k=1.5 scale=power}"
    assert str(Pipeline.parse(text)) == text


XNOR = """<ir_version: 8, opset_import: ["": {opset}]>
g (float[N,8,9,9] x) => (float[N,6,D,D] y) <float[6,8,3,3] w, float[6] b> {{ y = Conv<{attrs}>(x, w, b) }}"""


@pytest.mark.parametrize(
    ("opset", "attrs"),
    [
        (13, "pads = [1,1,1,1]"),
        (18, "strides = [2,2], pads = [0,1,2,1]"),
        (17, "dilations = [2,2], pads = [2,2,2,2]"),
        (17, 'auto_pad = "SAME_LOWER", strides = [2,2]'),
        (17, "strides = [4,4]"),
        (17, "pads = [3,3,1,3]"),
    ],
)
def test_xnor_is_the_formula_of_the_paper(opset, attrs):
    model = read_model(XNOR.format(opset=opset, attrs=attrs))
    result, _, _ = quantized(model, format="xnor", ends=True)
    x = feeds(model)["x"]
    w, b = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    found = Session(result).run({"x": x})["y"]
    signs = np.where(w >= 0, 1, -1) * np.abs(w).mean(axis=(1, 2, 3), keepdims=True)
    plain, mean = onnx.ModelProto(), onnx.ModelProto()
    for made, weight in ((plain, signs), (mean, np.full((1, 1, 3, 3), 1 / 9))):
        made.CopyFrom(model)
        del made.graph.initializer[:]
        made.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(len(weight), np.float32), "b"))
    mean.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    mean.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    product = Session(plain).run({"x": np.sign(x)})["y"]
    scale = Session(mean).run({"x": np.abs(x).mean(axis=1, keepdims=True)})["y"]
    np.testing.assert_allclose(found, product * scale + b[:, None, None], rtol=1e-4, atol=1e-5)


def test_xnor_of_a_matrix_product():
    result, _, _ = quantized(product(inputs=24, outputs=5), format="xnor", ends=True)
    model = product(inputs=24, outputs=5)
    x = feeds(model)["x"]
    w, b = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    signs = np.where(w >= 0, 1, -1) * np.abs(w).mean(axis=1, keepdims=True)
    expected = (np.sign(x) @ signs.T) * np.abs(x).mean(axis=1, keepdims=True) + b
    np.testing.assert_allclose(Session(result).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


def test_xnor_is_not_for_groups():
    _, changes, _ = quantized(read_model(NET), format="xnor", ends=True)
    assert {r.node for r in changes.refused} == {"b", "d", "e", "y"}


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    options=st.sampled_from(FORMATS),
    seed=st.integers(0, 99),
)
def test_weights_of_any_shape(shape, options, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape).astype(np.float32) * rng.choice([0, 1, 30], (shape[0], 1, 1, 1)).astype(
        np.float32
    )
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [info("x", onnx.TensorProto.FLOAT, [1, shape[1], 4, 4])],
        [info("y", onnx.TensorProto.FLOAT, [1, shape[0], 5 - shape[2], 5 - shape[3]])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    result, _, _ = quantized(model, **options | {"ends": True})
    tensor = weights_in(from_proto(result))["y"]
    found = Session(with_outputs(result, [tensor.name]), optimise=False).run(feeds(model), [tensor.name])[tensor.name]
    kind = QuantizeWeights(**options).kind()
    layout = Layout(0) if options.get("per_channel", options["format"] != "fixed") else TENSOR
    assert np.array_equal(found, kind.round(weight, kind.fit(weight, layout)))
    assert np.array_equal(found, decoded(tensor))


CLASSIFIERS = {"cifar10_resnet20_jpegft": (20, 20), "mobilenetv2_imagenet": (6, 1), "squeezenet1_1_imagenet": (23, 1)}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_sums_of_two_powers_on_a_classifier(zoo, name):
    floor, count = CLASSIFIERS[name]
    graph = load(zoo.model(name))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    exact = to_proto(graph)
    run_pipeline(graph, Pipeline.parse("quantize-weights{format=pow2 k=2}"), Context())
    result = to_proto(graph)
    assert len(result.SerializeToString()) < 0.35 * len(exact.SerializeToString())
    images, _ = zoo.eval(name, count)
    a, b = (next(iter(Session(m).run(images).values())) for m in (exact, result))
    assert 10 * np.log10(np.square(a).sum() / np.square(a - b).sum()) > floor


@pytest.mark.slow
def test_sums_of_two_powers_lose_at_most_a_point_and_a_half(zoo):
    images, labels = zoo.eval("cifar10_resnet20_jpegft", 2000)
    graph = load(zoo.model("cifar10_resnet20_jpegft"))
    (feed, pixels), *_ = images.items()
    right = []
    for text in ("exact", "quantize-weights{format=pow2 k=2}"):
        run_pipeline(graph, Pipeline.parse(text), Context())
        session = Session(to_proto(graph))
        batches = [{feed: pixels[start : start + 100]} for start in range(0, len(pixels), 100)]
        parts = [next(iter(session.run(batch).values())) for batch in batches]
        right.append(100 * float((np.concatenate(parts).argmax(axis=1) == labels).mean()))
    assert right[1] > right[0] - 1.5


@pytest.mark.parametrize(
    ("pipeline", "ratio", "kept"),
    [
        ("quantize-weights{format=int4}", 1.005, True),  # no faster, but the file is smaller
        ("quantize-weights{format=int4}", 1.5, False),
        ("quantize{ranges=minmax}", 1.005, False),  # is for speed, which it does not give
        ("quantize-weights{format=int4},recalibrate-bn", 1.005, True),  # what changed nothing has no say
    ],
)
def test_a_smaller_file_pays_where_it_is_not_slower(pipeline, ratio, kept, monkeypatch):
    """The guard asks of passes that are for size only that the result is not slower."""
    model = read_model(
        """<ir_version: 8, opset_import: ["": 21]>
        g (float[N,3,16,16] x) => (float[N,8,14,14] y) <float[32,3,3,3] w, float[8,32,1,1] v>
        { a = Conv(x, w)  r = Relu(a)  y = Conv(r, v) }"""
    )
    monkeypatch.setattr("lpcc.driver.race", lambda *_: Race(1.0, ratio, ratio, measured=True))
    images = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    data = Dataset.from_arrays({"x": images})
    result = lpcc.optimize(model, target="x86-avx512-vnni", pipeline=pipeline, calib=data, min_agreement=None)
    written = {tensor.data_type for tensor in result.model.graph.initializer}
    assert bool(written & {TensorProto.INT4, TensorProto.INT8}) == kept


def test_a_graph_without_layers():
    model = read_model('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    result, changes, ctx = quantized(model, format="int4")
    assert [r.reason for r in changes.refused] == ["no layer in it can be quantised"]
    assert ctx.unquantized is None
    assert edit.op(from_proto(result).nodes[0]) == "Relu"
