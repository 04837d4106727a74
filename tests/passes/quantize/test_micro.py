"""Placement for microcontrollers by the rules of TensorFlow Lite: all layers on integers, scales as prescribed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.checker
import pytest

from lpcc import edit
from lpcc.analysis.kernels import kernels
from lpcc.analysis.quantized import params_of, quantized_layers
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec
from lpcc.target import Target
from lpcc.targets.fit.networks.mlperf_tiny import NETWORKS
from lpcc.testing.golden import read_model

TARGETS = ("arm-cortex-m4", "arm-cortex-m4/x-cube-ai")

BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,4,8,8] x) => (float[N,6] y)
<float[4,4,3,3] w1, float[4,4,1,1] w2, float[6,8] w3, float[6] b3, float low = {0}, float six = {6}>
{
    a = Conv<pads = [1,1,1,1]>(x, w1)
    b = Relu(a)
    c = Conv(b, w2)
    d = Clip(c, low, six)
    e = Conv(b, w2)
    f = Sigmoid(e)
    h = Mul(d, f)
    i = Tanh(c)
    j = Add(h, i)
    k = AveragePool<kernel_shape = [2,2], strides = [2,2]>(j)
    l = MaxPool<kernel_shape = [2,2], strides = [2,2]>(b)
    m = Concat<axis = 1>(k, l)
    n = GlobalAveragePool(m)
    o = Flatten(n)
    p = Gemm<transB = 1>(o, w3, b3)
    y = Softmax(p)
}
"""


def quantized(model, target):
    graph = from_proto(model)
    ctx = Context(target=Target.load(target))
    run_pipeline(graph, Pipeline.parse("exact"), ctx)
    specs = TensorSpec.inputs_of(model)
    rng = np.random.default_rng(0)
    images = {s.name: rng.normal(0, 1, [6, *(d for d in s.shape[1:])]).astype(np.float32) for s in specs}
    ctx.calibration = Dataset.from_arrays(images, inputs=specs)
    Quantize(ranges="minmax").run(graph, ctx)
    annotate(graph)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    return graph, {name: values[:1] for name, values in images.items()}


def float_kernels(graph, target):
    """What computes in float, but for the conversions of the network's inputs and outputs."""
    found = kernels(graph, runtime=target.runtime, isa=target.isa)
    return [k.op for k in found if k.dtype != "int8" and k.kind != "view"]


def params(graph, name):
    tensor = next(t for n in graph.nodes for t in n.outputs if t.name == name)
    return params_of(tensor)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_mlperf_tiny_is_an_integer_kernel(name, target):
    graph, feeds = quantized(NETWORKS[name](), target)
    assert float_kernels(graph, Target.load(target)) == []
    layers = quantized_layers(graph)
    assert len(layers) == sum(edit.op(node) in ("Conv", "Gemm", "MatMul") for node in graph.nodes)
    for layer in layers:
        assert layer.weights.integers.dtype == np.int8
        assert layer.weights.axis is not None  # a scale for each channel
        assert layer.input_params.dtype == np.int8
    exact = Session(NETWORKS[name](), optimise=False).run(feeds)
    for key, value in Session(to_proto(graph), optimise=False).run(feeds).items():
        assert np.abs(value - exact[key]).max() <= 0.2 * np.abs(exact[key]).max()


@pytest.mark.parametrize("target", TARGETS)
def test_scales_are_those_that_kernels_prescribe(target):
    graph, _ = quantized(read_model(BRANCHES), target)
    assert float_kernels(graph, Target.load(target)) == []
    scales = {}
    for node in graph.nodes:
        if edit.op(node) == "QuantizeLinear":
            scales[node.inputs[0].name.removesuffix("_float")] = params_of(node.outputs[0].outputs[0].outputs[0])
    assert (float(scales["f"].scale), scales["f"].zero_point) == (1 / 256, -128)
    assert (float(scales["y"].scale), scales["y"].zero_point) == (1 / 256, -128)
    assert (float(scales["i"].scale), scales["i"].zero_point) == (1 / 128, 0)
    assert scales["k"] == scales["j"]  # pooling keeps its scale
    assert scales["m"] == scales["k"] == scales["l"]  # and so does concatenation
    assert scales["h"] != scales["j"]  # sums have their own


def test_neighbours_are_never_of_different_signs():
    """Prescribed zero points follow the type that all activations have."""
    graph = from_proto(read_model(BRANCHES))
    annotate(graph)
    images = np.random.default_rng(0).normal(0, 1, (4, 4, 8, 8)).astype(np.float32)
    data = Dataset.from_arrays({"x": images}, inputs=TensorSpec.inputs_of(read_model(BRANCHES)))
    Quantize(ranges="minmax", scheme="u8s8").run(graph, Context(target=Target.load(TARGETS[0]), calibration=data))
    made = [params_of(node.outputs[0]) for node in graph.nodes if edit.op(node) == "DequantizeLinear"]
    activations = [p for p in made if p is not None]
    assert {p.dtype for p in activations} == {np.dtype(np.uint8)}
    assert {p.zero_point for p in activations if p.scale == np.float32(1 / 256)} == {0}
    assert {p.zero_point for p in activations if p.scale == np.float32(1 / 128)} == {128}
