from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.quantized import quantized_layers
from lpcc.calibrate.channels import image_means
from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes.repair.correct_bias import CorrectBias
from lpcc.passes.repair.expected_means import clipped_normal, expected_means
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.target import Target

Array = np.ndarray[Any, Any]


def _model(*, bias: bool = True, last: str = "Gemm") -> onnx.ModelProto:
    """Convolutions with ReLUs, and a matrix product; weights that 8 bits per tensor suit badly."""
    rng = np.random.default_rng(0)
    weights, nodes, x, channels = [], [], "x", 3
    for index, outputs in enumerate((8, 8, 8)):
        w = rng.standard_normal((outputs, channels, 3, 3)) / 4 * np.exp(rng.uniform(-3, 1, (outputs, 1, 1, 1)))
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{index}"))
        inputs = [x, f"w{index}"]
        if bias:
            weights.append(numpy_helper.from_array(rng.standard_normal(outputs).astype(np.float32), f"b{index}"))
            inputs.append(f"b{index}")
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=f"conv{index}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"))
        x, channels = f"r{index}", outputs
    weights.append(numpy_helper.from_array(rng.standard_normal((8, 5)).astype(np.float32), "v"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["p"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], name="flat"))
    nodes.append(helper.make_node(last, ["f", "v"], ["y"], name="last"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _images(seed: int, count: int = 64) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32) + 0.5}


def _quantised(model: onnx.ModelProto, **context: Any) -> tuple[Any, Context]:
    ctx = Context(target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays(_images(1)), **context)
    graph = from_proto(model)
    run_pipeline(graph, Pipeline.parse("quantize{ranges=minmax per-channel=false min-work=0}"), ctx)
    assert len(quantized_layers(graph)) == 4
    return graph, ctx


def _shifts(model: onnx.ModelProto, graph: Any, images: dict[str, Array]) -> dict[str, float]:
    """How far the mean of each convolution's output is off, in root mean square over the channels."""
    names = [f"c{index}" for index in range(3)]
    expected, found = (image_means(m, names, [images]) for m in (model, to_proto(graph)))
    return {n: float(np.sqrt(np.square((found[n] - expected[n]).mean(axis=0)).mean())) for n in names}


def _error(model: onnx.ModelProto, graph: Any, images: dict[str, Array]) -> float:
    expected, found = (next(iter(Session(m).run(images).values())) for m in (model, to_proto(graph)))
    return float(np.square(found - expected).mean())


@pytest.mark.parametrize("bias", [True, False])
def test_means_are_those_of_the_float_network_afterwards(bias):
    model = _model(bias=bias)
    graph, ctx = _quantised(model)
    for layer in quantized_layers(graph):  # a shift that quantisation might have caused
        if layer.bias is not None:
            old = layer.bias.inputs[0]
            values = old.values + np.rint(0.2 / np.asarray(layer.bias.inputs[1].values)).astype(np.int32)
            layer.bias.inputs[0] = type(old)(f"{old.name}_moved", values.astype(np.int32))
    seen, unseen = _images(1), _images(2)
    before, error = _shifts(model, graph, unseen), _error(model, graph, unseen)
    (record,) = run_pipeline(graph, [CorrectBias()], ctx)
    assert record.changes
    after = _shifts(model, graph, unseen)
    assert all(after[name] < 0.5 * before[name] for name in before if bias or name == "c0")
    assert _error(model, graph, unseen) < error
    assert sum(_shifts(model, graph, seen).values()) < 0.2 * sum(before.values())


def test_a_convolution_without_bias_gets_one_in_int32():
    model = _model(bias=False)
    graph, ctx = _quantised(model)
    for layer in quantized_layers(graph):
        if layer.bias is not None:  # that `quantize` gave it
            del layer.node.inputs[2]
    run_pipeline(graph, [CorrectBias()], ctx)
    biases = [layer.bias for layer in quantized_layers(graph) if layer.node.op == "Conv"]
    assert all(bias is not None and bias.inputs[0].dtype == np.int32 for bias in biases)
    kinds = {node.op_type for node in to_proto(graph).graph.node}
    assert kinds <= {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "QuantizeLinear", "DequantizeLinear"}


def test_is_taken_back_where_it_does_not_help():
    model = _model()
    graph, ctx = _quantised(model)
    run_pipeline(graph, [CorrectBias()], ctx)
    before = to_proto(graph)
    (record,) = run_pipeline(graph, [CorrectBias()], ctx)  # what is left is chance
    if not record.changes:
        assert "taken back" in record.changes.refused[-1].reason or "no shift" in record.changes.refused[-1].reason
        assert to_proto(graph).graph == before.graph


def test_refuses_what_was_not_quantised_here():
    graph = from_proto(_model())
    (record,) = run_pipeline(graph, [CorrectBias()], Context(calibration=Dataset.from_arrays(_images(1))))
    assert not record.changes
    assert "nothing" in record.changes.refused[0].reason


def test_skipped_layers_and_matmul_keep_their_bias():
    model = _model(last="MatMul")
    graph, ctx = _quantised(model)
    (record,) = run_pipeline(graph, [CorrectBias(skip=("conv1",))], ctx)
    reasons = {refusal.node: refusal.reason for refusal in record.changes.refused}
    assert reasons["conv1"] == "named in `skip`"
    assert "no bias" in reasons["last"]
    assert not {"conv1", "last"} & {rewrite.node for rewrite in record.changes.rewrites}


def test_an_unnamed_layer_is_skipped_by_the_name_of_its_result():
    model = _model()
    del model.graph.node[5:], model.graph.output[:]  # ends with a convolution, whose result is returned
    model.graph.output.append(helper.make_tensor_value_info("c2", TensorProto.FLOAT, ["N", 8, 8, 8]))
    for node in model.graph.node:
        node.name = ""
    graph = from_proto(model)
    ctx = Context(target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays(_images(1)))
    run_pipeline(graph, Pipeline.parse("quantize{ranges=minmax min-work=0}"), ctx)
    (record,) = run_pipeline(graph, [CorrectBias(skip=("c0", "c2"))], ctx)
    assert [refusal.reason for refusal in record.changes.refused].count("named in `skip`") == 2


def test_norms_give_the_bias_that_the_weights_ask_for():
    """From the true means of what a layer reads, the correction is what brings its mean back."""
    model = _model()
    names = [f"c{index}" for index in range(3)]
    images = _images(3, 512)
    session = Session(_with_outputs(model, names))
    found = session.run(images, names)
    hints = {n: (v.mean(axis=(0, 2, 3)).astype(float), v.std(axis=(0, 2, 3)).astype(float)) for n, v in found.items()}
    graph, ctx = _quantised(model, hints=hints)
    for layer in quantized_layers(graph):
        if layer.node.name == "conv1":
            old = layer.bias.inputs[0]  # type: ignore[union-attr]
            layer.bias.inputs[0] = type(old)("moved", (old.values + 3000).astype(np.int32))  # type: ignore[union-attr]
    before = _shifts(model, graph, images)["c1"]
    (record,) = run_pipeline(graph, [CorrectBias(means="norms")], ctx)
    assert "conv1" in {rewrite.node for rewrite in record.changes.rewrites}
    assert _shifts(model, graph, images)["c1"] < 0.3 * before


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    from lpcc.runtime import with_outputs

    return with_outputs(model, names)


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 2.0)])
def test_clipped_normal_is_that_of_samples(low, high):
    mean, std = np.asarray([-2.0, 0.0, 1.0, 5.0]), np.asarray([1.0, 2.0, 0.5, 4.0])
    samples = np.clip(np.random.default_rng(0).normal(mean, std, (400_000, 4)), low, high)
    found = clipped_normal(mean, std, low, high)
    np.testing.assert_allclose(found[0], samples.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(found[1], samples.std(axis=0), atol=0.02)


def test_means_pass_activations_sums_and_averages():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,2,4,4] a, float[N,2,4,4] b) => (float[N,2,1,1] y, float[N,2,4,4] z)
    { s = Add(a, b) r = Relu(s) y = GlobalAveragePool(r) z = Sigmoid(r) }"""
    graph = from_proto(onnx.parser.parse_model(text))
    run_pipeline(graph, [], Context())
    moments = {
        "a": (np.asarray([1.0, 0.0]), np.asarray([3.0, 1.0])),
        "b": (np.asarray([0.0, 1.0]), np.asarray([4.0, 0.0])),
    }
    means = expected_means(graph, moments)
    assert "z" not in means
    expected = clipped_normal(np.asarray([1.0, 1.0]), np.asarray([5.0, 1.0]), 0.0, np.inf)[0]
    np.testing.assert_allclose(means["y"], expected)


def test_means_end_where_channels_become_others():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,16,4,4] a) => (float[16,16] y, float[1,4,4] z, float[1,16] v)
    <int64[2] s = {16, 16}, int64[2] t = {1, 16}>
    {
        r = Relu(a)
        y = Reshape(r, s)
        z = ReduceMean<axes=[1], keepdims=0>(r)
        p = GlobalAveragePool(r)
        v = Reshape(p, t)
    }"""
    graph = from_proto(onnx.parser.parse_model(text))
    run_pipeline(graph, [], Context())
    means = expected_means(graph, {"a": (np.arange(16.0), np.ones(16))})
    assert "y" not in means
    assert "z" not in means
    np.testing.assert_allclose(means["v"], means["r"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_mnist_vgg", "mlperf_resnet8_cifar10"])
def test_real_networks_come_closer(zoo: Any, name):
    ctx = Context(target=Target.load("x86-avx512-vnni"))
    graph = load(zoo.model(name))
    run_pipeline(graph, Pipeline.parse("exact"), ctx)
    model = to_proto(graph)
    ctx.calibration = Dataset.from_arrays(zoo.calib(name, 128), inputs=Session(model).inputs)
    unseen, _ = zoo.eval(name, 256)
    run_pipeline(graph, Pipeline.parse("quantize{ranges=mse}"), ctx)
    before = _error(model, graph, unseen)
    (record,) = run_pipeline(graph, [CorrectBias()], ctx)
    assert _error(model, graph, unseen) <= before * (0.95 if record.changes else 1.0)
