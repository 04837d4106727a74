from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel, KernelTable
from lpcc.graph import from_proto
from lpcc.pipeline.verdict import int8_verdict
from lpcc.target import Compute, Core, Energy, Memory, Overhead, Physics, Quality, Target
from lpcc.targets import BUILTIN

PLAIN = Target(
    name="plain",
    description="round numbers: 1 GHz, 1 MAC a cycle, 1 byte a cycle, 1 us a call",
    kind="cpu",
    runtime="onnxruntime",
    isa=("aarch64",),
    core=Core("plain", 1.0, 1),
    memory=Memory(bandwidth_gbps=1.0),
    overhead_us=Overhead(kernel=1.0, view=0.25),
    compute={
        "float32": Compute(2.0, 8, {"conv": 0.5}, {"elementwise": 4.0}),
        "int8": Compute(8.0, 8, {"conv": 0.5}, {"elementwise": 4.0}),
    },
    quality=Quality("not compared"),
    energy=Energy(active_watts=2.0),
)


def conv(out: int, inner: int = 8, size: int = 16, kernel: int = 3, group: int = 1) -> gs.Graph:
    weight = np.zeros((out, inner // group, kernel, kernel), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", pads=[kernel // 2] * 4, group=group)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inner, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    loaded = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    annotate(loaded)
    return loaded


def parse(body: str, weights: dict[str, np.ndarray]) -> gs.Graph:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[] y) {{ {body} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    loaded = from_proto(model)
    annotate(loaded)
    return loaded


def test_one_convolution_by_hand() -> None:
    cost = CostModel(PLAIN).estimate(conv(16))
    macs = 16 * 8 * 9 * 256
    moved = 4 * (8 * 256 + 16 * 256 + 16 * 8 * 9)
    (layer,) = cost.layers
    assert (layer.name, layer.op, layer.kernel, layer.dtype) == ("c", "Conv", "conv", "float32")
    assert (layer.inputs, layer.outputs) == (((1, 8, 16, 16),), ((1, 16, 16, 16),))
    assert (layer.macs, layer.parameters, layer.weight_bytes, layer.bytes_moved) == (macs, 1152, 4608, moved)
    assert layer.bound == "compute"
    assert layer.latency_ms == pytest.approx((macs / 1e3 + 1.0) / 1e3)
    assert layer.energy_mj == pytest.approx(2.0 * layer.latency_ms)
    assert layer.nodes == ("c",)
    assert (cost.latency_ms, cost.energy_mj) == (layer.latency_ms, layer.energy_mj)
    assert (cost.macs, cost.parameters, cost.weight_bytes) == (macs, 1152, 4608)
    assert cost.peak_activation_bytes == 4 * (8 + 16) * 256
    assert cost.peak_layer == "c"
    assert cost.assumptions == cost.warnings == ()


def test_channels_are_padded_to_what_the_kernel_computes_at_once() -> None:
    def micros(out: int, group: int = 1) -> float:
        return CostModel(PLAIN).estimate(conv(out, group=group)).latency_ms * 1e3 - 1

    assert micros(9) == pytest.approx(micros(16))
    assert micros(8) == pytest.approx(micros(16) / 2)
    assert micros(8, group=2) == pytest.approx(micros(8)), "4 channels a group run as 8, on half the inputs"


def test_what_bounds_a_kernel() -> None:
    body = "a = Relu(x) r = Reshape(a, flat) y = MatMul(r, w)"
    weights = {"flat": np.array([1, 256]), "w": np.zeros((256, 512), np.float32)}
    relu, view, gemm = CostModel(PLAIN).estimate(parse(body, weights)).layers
    assert (relu.bound, relu.latency_ms) == ("memory", pytest.approx((2048 / 1e3 + 1) / 1e3))
    assert (view.bound, view.latency_ms, view.bytes_moved) == ("overhead", 0.25e-3, 0)
    assert (gemm.kernel, gemm.bound) == ("gemm", "memory")
    fast = replace(PLAIN, memory=Memory(bandwidth_gbps=1e3))
    relu, _, gemm = CostModel(fast).estimate(parse(body, weights)).layers
    assert (relu.bound, gemm.bound) == ("overhead", "compute")


def test_caches_hold_what_fits() -> None:
    cached = replace(PLAIN, memory=Memory(bandwidth_gbps=1.0, cache_bandwidth_gbps=1e6, l2_kib=16))
    relu = parse("y = Relu(x)", {})
    assert CostModel(cached).estimate(relu).layers[0].bound == "overhead"
    small = replace(PLAIN, memory=Memory(bandwidth_gbps=1.0, cache_bandwidth_gbps=1e6, l1_kib=1))
    assert CostModel(small).estimate(relu).layers[0].bound == "memory"


def test_energy_per_operation_and_per_byte() -> None:
    target = replace(PLAIN, energy=Energy(pj_per_mac={"float32": 4.0}, pj_per_byte=100.0))
    (layer,) = CostModel(target).estimate(conv(16)).layers
    assert layer.energy_mj == pytest.approx((4.0 * layer.macs + 100.0 * layer.bytes_moved) * 1e-9)


def test_fitted_kernels_take_the_place_of_the_roofline() -> None:
    terms = {"one": 2000.0, "macs": 0.01, "ceil(cout/8)*depth*rows": 0.001, "weight_bytes": 0.005, "elements": 0.007}
    target = replace(PLAIN, tables=KernelTable({("conv", "float32"): {"ns": terms}}))
    (layer,) = CostModel(target).estimate(conv(12)).layers
    blocks = 2 * 72 * 256
    want = 2 + (0.01 * layer.macs + 0.001 * blocks + 0.005 * 3456 + 0.007 * 12 * 256) / 1e3
    assert layer.latency_ms * 1e3 == pytest.approx(want)
    assert layer.counts == {"ns": pytest.approx(want * 1e3)}
    assert CostModel(target).estimate(conv(12, kernel=1)) == CostModel(PLAIN).estimate(conv(12, kernel=1)), (
        "1x1: no row"
    )


@pytest.mark.parametrize("bandwidth", [1.0, 100.0])
def test_instructions_become_time_by_the_physics_of_the_core(bandwidth: float) -> None:
    """What is not in a cache is read ahead while the core computes."""
    table = KernelTable({("conv", "float32"): {"mac": {"macs": 0.25}, "other": {"one": 100.0, "macs": 0.125}}})
    physics = Physics(cycles_per_instruction={"mac": 0.5, "other": 0.25}, scale=1.1)
    target = replace(
        PLAIN,
        core=Core("fast", 2.0, 1),
        memory=Memory(bandwidth_gbps=bandwidth),
        tables=table,
        physics=physics,
        overhead_us=Overhead(kernel=1.0, inference=3.0),
    )
    cost = CostModel(target).estimate(conv(12))
    (layer,) = cost.layers
    cycles = layer.macs * 0.25 * 0.5 + (100 + layer.macs * 0.125) * 0.25
    computing, moving = cycles / 2e3, layer.bytes_moved / bandwidth / 1e3
    assert layer.bound == ("memory" if bandwidth == 1 else "compute")
    assert layer.latency_ms * 1e3 == pytest.approx(1.1 * max(computing, moving))
    assert cost.latency_ms * 1e3 == pytest.approx(1.1 * max(computing, moving) + 3.0)
    assert cost.energy_mj == pytest.approx(2.0 * cost.latency_ms)


def test_an_int8_scheme_may_have_rates_of_its_own(mobile) -> None:
    slow = PLAIN.compute["float32"]
    target = replace(PLAIN, compute={**PLAIN.compute, "s8s8": slow})
    model = CostModel(target)
    assert model.estimate(mobile("s8s8")).latency_ms > 2 * model.estimate(mobile("u8s8")).latency_ms
    assert {layer.dtype for layer in model.estimate(mobile("s8s8")).layers if layer.macs} == {"s8s8"}


PROCESSORS = {name: target for name in BUILTIN if (target := Target.load(name)).kind in ("cpu", "mcu")}


def test_int8_pays_for_mobilenets_by_dot_products(mobile) -> None:
    """ncnn on cores with float16 arithmetic; its published times since October 2023 say 1.2 to 1.4 x."""
    model = CostModel(PROCESSORS["arm-cortex-a76/ncnn"])
    assert model.estimate(mobile("s8s8")).latency_ms < model.estimate(mobile()).latency_ms


@pytest.mark.parametrize(
    "name", [name for name, target in PROCESSORS.items() if target.runtime not in ("ncnn", "tflite")]
)
def test_int8_pays_on_a_mobile_network_and_islands_do_not(name: str, mobile) -> None:
    target = Target.load(name)
    assert target.int8 is not None
    model = CostModel(target)
    plain = model.estimate(mobile())
    fused = model.estimate(mobile(target.int8.scheme))
    islands = model.estimate(mobile(target.int8.scheme, islands=True))
    assert fused.latency_ms < plain.latency_ms
    assert fused.energy_mj < plain.energy_mj
    inner = slice(2, -2)  # the first and last kernels convert: both formats are alive there
    assert max(alive for _, alive in fused.memory[inner]) < max(alive for _, alive in plain.memory[inner])
    assert fused.weight_bytes < 0.5 * plain.weight_bytes
    assert fused.macs == plain.macs
    assert islands.latency_ms > (1.2 if target.kind == "cpu" else 1.05) * fused.latency_ms
    left = [layer for layer in islands.layers if layer.kernel == "dequantize"]
    assert len(left) == 6 + 6 + 1, "activation and weights of each depthwise convolution, and the output"
    if name.startswith("arm-cortex-a"):
        floats = model.estimate(mobile(islands=True)).latency_ms
        assert islands.latency_ms > 0.6 * floats


def test_signed_activations_do_not_pay_on_x86(mobile) -> None:
    model = CostModel(Target.load("x86-avx2"))
    assert model.estimate(mobile("u8s8")).latency_ms < model.estimate(mobile()).latency_ms
    assert model.estimate(mobile("s8s8")).latency_ms >= model.estimate(mobile("u8s8")).latency_ms


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(PROCESSORS)),
    out=st.integers(1, 70),
    more=st.integers(0, 70),
    inner=st.integers(1, 20),
    size=st.integers(1, 20),
    kernel=st.sampled_from([1, 3]),
)
def test_more_channels_or_pixels_are_never_cheaper(
    name: str, out: int, more: int, inner: int, size: int, kernel: int
) -> None:
    """By the roofline. Real kernels, which tables hold, are at times cheaper on full blocks of more channels."""
    model = CostModel(replace(Target.load(name), tables=KernelTable()))

    def latency(graph: gs.Graph) -> float:
        return sum(layer.latency_ms for layer in model.estimate(graph).layers if layer.nodes)

    base = latency(conv(out, inner, size, kernel))
    assert latency(conv(out + more, inner, size, kernel)) >= base
    assert latency(conv(out, inner + more, size, kernel)) >= base
    assert latency(conv(out, inner, size + 1, kernel)) >= base


def test_what_does_not_fit_a_microcontroller_is_said() -> None:
    tight = replace(PLAIN, memory=Memory(bandwidth_gbps=1.0, sram_kib=1, flash_kib=2))
    cost = CostModel(tight).estimate(conv(16))
    assert cost.warnings == (
        "does not fit: needs 24 KiB of SRAM of 1 KiB, 23 KiB too much; most at c",
        "does not fit: weights and code need 5 KiB of flash of 2 KiB, 3 KiB too much",
    )
    assert CostModel(replace(tight, memory=Memory(1.0, sram_kib=64, flash_kib=8))).estimate(conv(16)).warnings == ()


def test_open_dimensions_are_assumed_or_given() -> None:
    graph = conv(8)
    graph.inputs[0].shape = ["N", 8, "H", "H"]
    for node in graph.nodes:
        node.outputs[0].shape = None
    annotate(graph)
    model = CostModel(PLAIN)
    assumed = model.estimate(graph)
    assert assumed.assumptions == (
        "dimension N of input x taken as 1",
        "dimension H of input x taken as 224",
    )
    given_sizes = model.estimate(graph, {"N": 2, "H": 16})
    assert given_sizes.assumptions == ()
    assert given_sizes.macs == 2 * CostModel(PLAIN).estimate(conv(8)).macs


def test_every_target_prices_every_network_of_the_zoo(zoo) -> None:
    from lpcc.graph import load

    for name in zoo.names:
        graph = load(zoo.model(name))
        annotate(graph)
        for target in ("arm-cortex-a", "arm-cortex-m7", "x86-avx512-vnni"):
            cost = CostModel(Target.load(target)).estimate(graph)
            assert 0 < cost.latency_ms < 1e5
            fixed = Target.load(target).overhead_us.inference / 1e3
            assert cost.latency_ms == pytest.approx(sum(layer.latency_ms for layer in cost.layers) + fixed)
            assert not any("unknown shape" in text for text in cost.assumptions)


def chain(count: int) -> gs.Graph:
    nodes = []
    for i in range(count // 2):
        nodes.append(helper.make_node("Conv", [f"t{i}", "w"], [f"c{i}"], name=f"conv{i}"))
        nodes.append(helper.make_node("Sigmoid", [f"c{i}"], [f"t{i + 1}"], name=f"act{i}"))
    shape = [1, 4, 8, 8]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{count // 2}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "w")],
    )
    loaded = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    annotate(loaded)
    return loaded


def test_time_grows_linearly_with_the_graph() -> None:
    model = CostModel(Target.load("arm-cortex-a"))

    def seconds(graph: gs.Graph) -> tuple[float, Cost]:
        start = time.process_time()
        cost = model.estimate(graph)
        return time.process_time() - start, cost

    small = min(seconds(chain(2_000))[0] for _ in range(3))
    large, cost = seconds(chain(20_000))
    assert len(cost.layers) == 10_000
    assert large < 40 * small, "ten times the nodes"


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = MatMul (x, w)", [0, 8]),
        ("y = MatMul (x, none)", [2, 0]),
        ("c = Conv (x, k) r = Relu (c) y = GlobalAveragePool (r)", [0, 8, 6, 6]),
        ("c = Conv (x, k) r = Relu (c) y = GlobalAveragePool (r)", None),
        ("y = Identity (x)", [1, 8]),
    ],
)
def test_every_target_prices_networks_of_nothing(body: str, shape: list[int] | None) -> None:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) {{ {body} }}'
    )
    weights = {"w": (8, 8), "none": (0, 8), "k": (8, 8, 3, 3)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.ones(size, np.float32), name)
        for name, size in weights.items()
        if f" {name})" in body
    )
    for value, size in ((proto.graph.input[0], shape), (proto.graph.output[0], None)):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, size))
    graph = from_proto(proto)
    annotate(graph)
    for device in map(Target.load, sorted(BUILTIN)):
        cost = CostModel(device).estimate(graph)
        assert cost.latency_ms - device.overhead_us.inference / 1e3 < 1, device.name
        verdict = int8_verdict(graph, device)
        assert verdict is None or str(verdict)
