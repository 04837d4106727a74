"""Activations of 16 bits on microcontrollers: which nodes take them, how formats meet, what a target is charged."""

from __future__ import annotations

import numpy as np
import onnx.checker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc import edit
from lpcc.analysis.kernels import kernels
from lpcc.analysis.quantized import params_of, quantized_layers
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context
from lpcc.runtime import Session, TensorSpec
from lpcc.target import Target
from lpcc.targets.fit.networks.mlperf_tiny import NETWORKS
from lpcc.testing.golden import read_model

MICRO = "arm-cortex-m4"

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,4,8,8] x) => (float[N,6] y)
<float[8,4,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8,8,1,1] w3, float[8,4,1,1] w4, float[6,16] w5, float[6] b5>
{
    first = Conv<pads = [1,1,1,1]>(x, w1, b1)
    a = Relu(first)
    second = Conv<pads = [1,1,1,1], group = 8>(a, w2)
    third = Conv(a, w3)
    sum = Add(second, third)
    b = Relu(sum)
    pool = MaxPool<kernel_shape = [2,2], strides = [2,2]>(b)
    fourth = Conv<group = 2>(pool, w4)
    both = Concat<axis = 1>(pool, fourth)
    mean = GlobalAveragePool(both)
    flat = Flatten(mean)
    fifth = Gemm<transB = 1>(flat, w5, b5)
    y = Softmax(fifth)
}
"""
LAYERS = ("first", "second", "third", "fourth", "fifth")


def images(model, count=16):
    rng = np.random.default_rng(0)
    specs = TensorSpec.inputs_of(model)
    return {s.name: rng.normal(0, 1, [count, *s.shape[1:]]).astype(np.float32) for s in specs}


def quantized(model, bits, target=MICRO, ranges="minmax", feeds=None):
    graph = from_proto(model)
    annotate(graph)
    feeds = feeds or images(model)
    data = Dataset.from_arrays(feeds, inputs=TensorSpec.inputs_of(model))
    changes = Quantize(ranges=ranges, bits=bits).run(graph, Context(target=Target.load(target), calibration=data))
    onnx.checker.check_model(to_proto(graph), full_check=True)
    annotate(graph)
    return graph, changes


def formats(graph):
    """By name of a layer or other main node: the format of its kernel on a Cortex-M."""
    target = Target.load(MICRO)
    found = kernels(graph, runtime=target.runtime, isa=target.isa)
    return {edit.label(k.node).removesuffix("_float"): k.dtype for k in found if k.kind != "view"}


def conversions(graph):
    """Kernels that take one integer format to the other."""
    target = Target.load(MICRO)
    found = kernels(graph, runtime=target.runtime, isa=target.isa)
    return [k for k in found if k.kind == "quantize" and k.dtype == "int16"]


def sqnr(model, graph, feeds):
    (exact,) = Session(model).run(feeds).values()
    (found,) = Session(to_proto(graph)).run(feeds).values()
    with np.errstate(divide="ignore"):  # where all layers stay in float there is no noise
        return 10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum())


def activation_zero_points(graph):
    """Type and value of the zero points of what QuantizeLinear writes."""
    return {
        (node.inputs[2].values.dtype.name, int(node.inputs[2].values))
        for node in graph.nodes
        if edit.op(node) == "QuantizeLinear"
    }


@pytest.fixture
def model():
    return read_model(NETWORK)


@pytest.fixture(params=["ic01", "vww01"])
def real(request):
    name = next((name for name in NETWORKS if request.param[:2] in name), None)
    if name is None:
        pytest.skip("no such network")
    return NETWORKS[name]()


def test_all_that_has_kernels_takes_sixteen_bits(model):
    graph, changes = quantized(model, ("*=16",))
    assert graph.opset == 21
    found = formats(graph)
    wide = {"first", "second", "third", "sum", "pool", "mean", "fifth", "y"} & set(found)
    assert {"first", "second", "third", "sum", "pool", "fifth"} <= wide
    assert {found[name] for name in wide} == {"int16"}
    assert found["fourth"] == "int8"
    assert [r.reason for r in changes.refused if r.node == "fourth"] == [
        "keeps activations of 8 bits: there is no kernel in 16 for grouped convolutions"
    ]
    assert [r.what for r in changes.rewrites if r.node == "first"] == ["Conv in int16"]


def test_sixteen_bits_are_symmetric_and_eight_stay_as_they_are(model):
    graph, _ = quantized(model, ("first=16", "second=16"))
    assert {zero for dtype, zero in activation_zero_points(graph) if dtype == "int16"} == {0}
    assert "int8" in {dtype for dtype, _ in activation_zero_points(graph)}


def test_weights_keep_eight_bits_and_biases_the_product_of_scales(model):
    graph, _ = quantized(model, ("first=16",))
    layer = next(layer for layer in quantized_layers(graph) if edit.label(layer.node) == "first")
    assert layer.bits == 8
    assert layer.input_params.dtype == np.int16
    (bias,) = [t for t in [edit.inp(layer.node, 2)] if t is not None]
    np.testing.assert_allclose(params_of_bias(bias), layer.input_params.scale * layer.weights.scales, rtol=1e-6)


def params_of_bias(bias):
    return bias.inputs[0].inputs[1].values


def test_formats_meet_in_one_requantisation_each(model):
    graph, _ = quantized(model, ("third=16",))
    found = formats(graph)
    assert (found["third"], found["first"], found["sum"]) == ("int16", "int8", "int8")
    both_ways = conversions(graph)
    assert len(both_ways) == 2  # what it reads, and what it makes
    for kernel in both_ways:
        assert kernel.outputs[0].nbytes in (2 * kernel.inputs[0].nbytes, kernel.inputs[0].nbytes // 2)
    assert not [node for node in graph.nodes if edit.op(node) == "Identity"]


def test_what_stands_between_layers_goes_on_in_what_it_reads(model):
    graph, _ = quantized(model, ("second=16", "third=16"))
    assert formats(graph)["sum"] == "int16"
    graph, _ = quantized(model, ("second=16", "third=16", "sum=8"))
    assert formats(graph)["sum"] == "int8"


def test_softmax_has_the_scale_that_its_kernel_prescribes(model):
    graph, _ = quantized(model, ("*=16",))
    node = next(node for node in graph.nodes if edit.op(node) == "Softmax")
    found = params_of(node.outputs[0].outputs[0].outputs[0].outputs[0].outputs[0])
    assert (float(found.scale), found.zero_point, found.dtype) == (1 / 32768, 0, np.int16)


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("x86-avx512-vnni", "in float between conversions"),
        ("arm-cortex-m4/x-cube-ai", "no kernels"),
        ("ethos-u55-128", "cost model"),
    ],
)
def test_other_runtimes_leave_such_layers_in_float(model, target, word):
    graph, changes = quantized(model, ("third=16",), target)
    assert [r.node for r in changes.refused if word in r.reason and "stays in float" in r.reason] == ["third"]
    assert "third" not in [edit.label(layer.node) for layer in quantized_layers(graph)]
    assert "int16" not in {dtype for dtype, _ in activation_zero_points(graph)}


@pytest.mark.parametrize("ranges", ["minmax", "mse"])
def test_outputs_come_much_closer(model, ranges):
    feeds = images(model)
    narrow, _ = quantized(model, (), ranges=ranges, feeds=feeds)
    wide, _ = quantized(model, ("*=16", "fourth=float"), ranges=ranges, feeds=feeds)
    assert sqnr(model, wide, feeds) > sqnr(model, narrow, feeds) + 3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["4", "8", "16", "float"]), min_size=5, max_size=5))
def test_any_mixture_is_a_network_of_the_formats_asked_for(choices):
    model = read_model(NETWORK)
    bits = tuple(f"{name}={choice}" for name, choice in zip(LAYERS, choices, strict=True))
    graph, _ = quantized(model, bits)
    found = formats(graph)
    for name, choice in zip(LAYERS, choices, strict=True):
        if name != "fourth" or choice != "16":
            assert found[name] == {"16": "int16", "float": "float32"}.get(choice, "int8")
    feeds = images(model, 4)
    assert sqnr(model, graph, feeds) > (0 if "4" in choices else 12)


def test_a_search_for_ranges_takes_those_of_sixteen_bits_as_they_are(model):
    feeds = images(model)
    wide, _ = quantized(model, ("*=16", "fourth=float"), ranges="auto", feeds=feeds)
    assert sqnr(model, wide, feeds) > 25


def test_a_target_is_charged_for_wide_activations():
    model = NETWORKS["ic"]() if "ic" in NETWORKS else next(iter(NETWORKS.values()))()
    target = Target.load(MICRO)
    narrow, wide = (
        CostModel(target).estimate(quantized(model, bits)[0], {f"{model.graph.input[0].name}[0]": 1})
        for bits in ((), ("*=16",))
    )
    assert wide.arena_bytes > 1.6 * narrow.arena_bytes
    assert wide.weight_bytes == pytest.approx(narrow.weight_bytes, rel=0.02)
    assert 1.0 < wide.latency_ms / narrow.latency_ms < 1.5
    assert {layer.dtype for layer in wide.layers if layer.macs} == {"s16s8"}


def test_mlperf_tiny_comes_closer(real):
    feeds = images(real, 1)
    narrow, _ = quantized(real, (), ranges="mse", feeds=feeds)
    wide, _ = quantized(real, ("*=16",), ranges="mse", feeds=feeds)
    assert sqnr(real, wide, feeds) > sqnr(real, narrow, feeds) + 3
