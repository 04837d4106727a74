"""Bits of weights: what is written, what onnxruntime makes of it, what a target is charged for it."""

from __future__ import annotations

import numpy as np
import onnx.checker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.analysis.macs import parameters, stored_bytes
from lpcc.analysis.quantized import quantized_layers
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Quantize
from lpcc.passes.quantize.bits import FLOAT, Width, format_choices, parse_bits, wide_channels
from lpcc.pipeline import Pipeline
from lpcc.runtime import Session, count_kernels, optimised
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,24,24] x) => (float[N,10] y)
<float[16,3,3,3] w1, float[16] b1, float[16,1,3,3] w2, float[32,16,1,1] w3, float[32] b3, float[32,10] w4,
 float[10] b4>
{
    first = Conv<pads = [1,1,1,1]>(x, w1, b1)
    a = Relu(first)
    second = Conv<pads = [1,1,1,1], group = 16>(a, w2)
    b = Relu(second)
    third = Conv(b, w3, b3)
    c = Relu(third)
    d = GlobalAveragePool(c)
    e = Flatten(d)
    y = Gemm(e, w4, b4)
}
"""


@pytest.fixture
def model():
    return read_model(NETWORK)


def quantized(model, context, **options):
    graph = from_proto(model)
    annotate(graph)
    changes = Quantize(ranges="minmax", min_work=0, **options).run(graph, context)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    annotate(graph)
    return graph, changes


@pytest.mark.parametrize(
    ("options", "opset"),
    [
        ({"weight_bits": 4}, 21),
        ({"weight_bits": 2}, 25),
        ({"bits": ("first=4", "y=2")}, 25),
        ({"bits": ("first=4+8:25%", "third=4+8:50%", "y=4+8:30%")}, 21),
        ({"bits": ("first=8",)}, 17),
    ],
)
def test_kernels_are_those_of_int8(model, context, options, opset):
    reference, _ = quantized(model, context(model))
    graph, _ = quantized(model, context(model), **options)
    assert graph.opset == opset
    narrow = to_proto(graph)
    kernels = count_kernels(optimised(narrow))
    assert kernels == count_kernels(optimised(to_proto(reference)))
    assert kernels.integer_convolutions == 3
    feeds = next(iter(context(model).calibration.batches(4))).feeds
    exact, found = (Session(m).run(feeds)["y"] for m in (model, narrow))
    assert np.isfinite(found).all()
    assert np.square(exact - found).sum() < 0.5 * np.square(exact).sum()


def test_onnxruntime_optimised_computes_what_the_graph_says(model, context):
    graph, _ = quantized(model, context(model), bits=("first=4+8:25%", "third=2", "y=4"))
    feeds = next(iter(context(model).calibration.batches(4))).feeds
    plain, fused = (Session(to_proto(graph), optimise=optimise).run(feeds)["y"] for optimise in (False, True))
    np.testing.assert_allclose(fused, plain, atol=0.02 * np.abs(plain).max())


def test_layers_are_read_back_as_they_were_written(model, context):
    graph, _ = quantized(model, context(model), bits=("first=4+8:25%", "third=2", "y=4+8:30%"))
    found = {layer.node.name or layer.node.outputs[0].name: layer for layer in quantized_layers(graph)}
    assert [layer.bits for layer in found.values()] == [4, 8, 2, 4]
    layers = list(found.values())
    assert [len(layer.wide) for layer in layers] == [4, 0, 0, 3]
    for layer, name in zip(layers, ("w1", "w2", "w3", "w4"), strict=True):
        values = next(t.values for t in from_proto(model).tensors().values() if t.name == name)
        low, high = layer.limits
        assert np.all(layer.weights.integers >= low)
        assert np.all(layer.weights.integers <= high)
        steps = layer.weights.scales.reshape((-1, 1, 1, 1) if values.ndim == 4 else (1, -1))
        error = np.abs(layer.weights.values - values)
        inside = (layer.weights.integers > low) & (layer.weights.integers < high)
        assert np.all(error[inside] <= 0.5001 * np.broadcast_to(steps, values.shape)[inside])


def test_the_channels_that_lose_most_keep_eight_bits(model, context):
    graph, _ = quantized(model, context(model), bits=("third=4+8:25%",))
    narrow, _ = quantized(model, context(model), bits=("third=4",))
    values = next(t.values for t in from_proto(model).tensors().values() if t.name == "w3")
    mixed, few = (quantized_layers(g)[2] for g in (graph, narrow))
    lost = np.square(few.weights.values - values).sum(axis=(1, 2, 3))
    assert set(mixed.wide) == set(np.argsort(-lost)[:8])
    kept = np.setdiff1d(np.arange(32), mixed.wide)
    np.testing.assert_array_equal(mixed.weights.integers[kept], few.weights.integers[kept])


@pytest.mark.parametrize(("target", "packed"), [("x86-avx512-vnni", False), ("arm-cortex-m7", True), ("eyeriss", True)])
def test_half_the_bytes_are_stored_and_moved_where_the_runtime_keeps_them_packed(model, context, target, packed):
    device = Target.load(target)
    scheme = {} if device.int8 else {"scheme": "s8s8"}
    full, few = (quantized(model, context(model, target=target), weight_bits=bits, **scheme)[0] for bits in (8, 4))
    weights = 3 * 16 * 9 + 16 * 9 + 16 * 32 + 320
    biases = 4 * (16 + 32 + 10)
    assert stored_bytes(full) - stored_bytes(few) >= weights // 2 - 4 * 16  # the depthwise layer has got a bias
    assert stored_bytes(few) >= weights // 2 + biases
    assert parameters(few) >= parameters(full)
    eight, four = (CostModel(device).estimate(graph) for graph in (full, few))
    assert [layer.kernel for layer in eight.layers] == [layer.kernel for layer in four.layers]
    assert [layer.dtype for layer in eight.layers] == [layer.dtype for layer in four.layers]
    moved = [
        (a.weight_bytes, b.weight_bytes) for a, b in zip(eight.layers, four.layers, strict=True) if a.macs and a.nodes
    ]
    assert len(moved) == 4
    for before, after in moved:
        assert (after < 0.8 * before) if packed else (after >= before)


def test_an_opset_that_cannot_be_raised_keeps_eight_bits(context):
    text = NETWORK.replace("float[N,3,24,24] x) => (float[N,10] y)", "float[N,3,24,24] x) => (float[N,10] y, float z)")
    text = text.replace("    y = Gemm", "    z = RandomNormal<shape = [1], seed = 1.0>()\n    y = Gemm")
    model = read_model(text.replace("float z)", "float[1] z)"))
    graph, changes = quantized(model, context(model), bits=("first=2", "third=4"))
    assert graph.opset == 21
    assert [layer.bits for layer in quantized_layers(graph)] == [8, 8, 4, 8]
    assert any("keeps 8 bits" in refusal.reason and "opset 25" in refusal.reason for refusal in changes.refused)


def test_float_stays_float(model, context):
    graph, changes = quantized(model, context(model), bits=("first=float",))
    assert len(quantized_layers(graph)) == 3
    assert any(refusal.node == "first" for refusal in changes.refused)


def test_same_bytes_twice(model, context):
    options = {"weight_bits": 4, "bits": ("third=4+8:50%",)}
    first, second = (to_proto(quantized(model, context(model), **options)[0]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
choices = st.sampled_from(["2", "4", "8", "16", "float", "4+8:25%", "2+8:12.5%", "4+8:100%"])


@settings(deadline=None)
@given(st.lists(st.tuples(names, choices), max_size=4))
def test_text_form_there_and_back(pairs):
    """Names may hold anything: slashes, colons, commas, quotes, equals signs."""
    bits = tuple(f"{name}={choice}" for name, choice in pairs)
    item = Quantize(bits=bits)
    assert Pipeline.parse(str(item)).passes == (item,)
    widths = parse_bits(bits)
    again = {name: FLOAT if width is None else str(width) for name, width in widths.items()}
    assert parse_bits(format_choices(again)) == widths
    assert list(widths) == list(dict(pairs))


@pytest.mark.parametrize("text", ["conv1", "=4", "conv1=3", "conv1=4+8:101%", "conv1=8+8:10%", "conv1=4+8:", "conv1="])
def test_what_is_no_choice_is_refused(text):
    with pytest.raises(UsageError, match="column 1: pass `quantize`"):
        Pipeline.parse(f'quantize{{bits="{text}"}}')


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 1))
def test_a_share_of_the_channels_is_rounded_up(channels, share):
    wide = wide_channels(Width(4, share), channels)
    assert wide - 1 < share * channels <= wide + 1e-6
    assert 4 <= Width(4, share).average(channels) <= 8


def test_names_may_be_patterns_and_the_last_counts(model, context):
    graph, _ = quantized(model, context(model), bits=("*=4", "second=8"))
    assert [layer.bits for layer in quantized_layers(graph)] == [4, 8, 4, 4]


def test_a_name_that_fits_nothing_is_an_error(model, context):
    with pytest.raises(UsageError, match=r"bits names `frist`.*nearest are `first`"):
        quantized(model, context(model), bits=("frist=4",))


def test_sixteen_bits_are_for_runtimes_that_have_them(model, context):
    graph, changes = quantized(model, context(model), bits=("first=16",))
    assert len(quantized_layers(graph)) == 3
    assert any(refusal.node == "first" and "16 bits" in refusal.reason for refusal in changes.refused)
