from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs
import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel, KernelTable
from lpcc.cost.processor import cold_share
from lpcc.graph import from_proto
from lpcc.target import Energy, Physics, Target
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[1,8,16,16] x) => (float[1,8,16,16] y)
<float[8,8,3,3] w>
{
    c = Conv <pads = [1,1,1,1]> (x, w)
    y = Sigmoid (c)
}
"""

TABLE = {(kind, "float32"): {"other": {"elements": 1.0}} for kind in ("conv", "activation")}


def latencies(**physics: Any) -> dict[str, float]:
    """Milliseconds by kind of kernel on a target without a kernel table."""
    graph = from_proto(read_model(NETWORK.replace("Sigmoid", "Erf")))
    annotate(graph)
    plain = Target.load("arm-cortex-m7")
    target = replace(plain, runtime="onnxruntime", physics=Physics(**physics))
    return {layer.kernel: layer.latency_ms for layer in CostModel(target).estimate(graph).layers}


def test_measurements_scale_every_kernel() -> None:
    plain, scaled = latencies(), latencies(scale=2.0)
    assert {"conv", "activation"} <= set(plain)
    assert scaled == pytest.approx({kind: 2 * value for kind, value in plain.items()})


def test_and_single_kinds_and_formats() -> None:
    plain, scaled = latencies(), latencies(scale=2.0, factors={"activation": 3.0, "float32": 0.5, "int8": 9.0})
    assert scaled["conv"] == pytest.approx(plain["conv"])
    assert scaled["activation"] == pytest.approx(3 * plain["activation"])


@pytest.mark.parametrize(("l2_kib", "share"), [(None, 0), (1024, 0), (64, 0.5), (1, 1)])
def test_weights_that_no_near_cache_keeps_cost_more(l2_kib: int | None, share: float) -> None:
    plain = Target.load("x86-avx2")
    target = replace(plain, memory=replace(plain.memory, l2_kib=l2_kib))
    assert cold_share(48 * 1024, target) == share


def test_by_their_bytes() -> None:
    graph = from_proto(read_model(NETWORK))
    annotate(graph)
    plain = Target.load("x86-avx2")
    small = replace(
        plain,
        memory=replace(plain.memory, l2_kib=1),
        physics=Physics(),
        tables=KernelTable({("conv", "float32"): {"ns": {"one": 1000.0}}}),
    )
    cold = replace(small, physics=Physics(weight_ns_per_byte=2.0))
    before, after = (CostModel(target).estimate(graph) for target in (small, cold))
    assert after.latency_ms - before.latency_ms == pytest.approx(2.0 * 8 * 8 * 9 * 4 / 1e6)


def test_a_factor_or_an_energy_may_be_of_one_int8_scheme(mobile: Callable[..., gs.Graph]) -> None:
    graph = mobile("s8s8", count=1)
    plain = replace(Target.load("arm-cortex-a72"), physics=Physics(), energy=Energy(pj_per_mac={"int8": 1.0}))
    slow = replace(plain, physics=Physics(factors={"s8s8": 2.0, "int8": 7.0}), energy=Energy(pj_per_mac={"s8s8": 3.0}))
    before, after = (CostModel(target).estimate(graph).layers for target in (plain, slow))
    for one, other in zip(before, after, strict=True):
        if one.macs:
            assert other.latency_ms == pytest.approx(2 * one.latency_ms)
            assert other.energy_mj == pytest.approx(3 * one.energy_mj)


def test_activations_of_a_microcontroller_do_not_pass_its_flash() -> None:
    graph = from_proto(read_model(NETWORK.replace("Sigmoid", "Erf")))
    annotate(graph)
    plain = Target.load("arm-cortex-m4")
    slow = replace(plain, memory=replace(plain.memory, bandwidth_gbps=0.001), tables=KernelTable(TABLE))
    conv, erf = CostModel(slow).estimate(graph).layers
    assert (conv.bound, erf.bound) == ("memory", "compute")
    assert conv.latency_ms == pytest.approx(8 * 8 * 9 * 4 / 1e3)


def test_measured_nanoseconds_scale_with_the_clock() -> None:
    """A board's file may state another clock than that of the measurements; one that does not say where does not."""
    graph = from_proto(read_model(NETWORK))
    annotate(graph)
    plain = Target.load("arm-cortex-m7")
    table = KernelTable({(kind, "float32"): {"ns": {"elements": 1.0}} for kind in ("conv", "activation")})

    def latency(**physics: Any) -> float:
        target = replace(plain, core=replace(plain.core, clock_ghz=0.5), tables=table, physics=Physics(**physics))
        return sum(layer.latency_ms for layer in CostModel(target).estimate(graph).layers)

    assert latency(measured_ghz=0.5) == latency()
    assert latency(measured_ghz=2.0) == pytest.approx(4 * latency())


@pytest.mark.parametrize(
    "name", ["x86-avx512-vnni", "jetson-nano", "arm-cortex-a76", "arm-cortex-m4", "arm-cortex-a53/ncnn"]
)
def test_a_board_at_half_the_clock_is_slower(name: str) -> None:
    graph = from_proto(read_model(NETWORK.replace("16,16", "64,64")))
    annotate(graph)
    target = Target.load(name)
    slow = replace(target, core=replace(target.core, clock_ghz=target.core.clock_ghz / 2))
    fast_ms, slow_ms = (sum(x.latency_ms for x in CostModel(t).estimate(graph).layers) for t in (target, slow))
    assert slow_ms > 1.4 * fast_ms


@pytest.mark.parametrize(("outputs", "is_streamed"), [(256, False), (16384, True)])
def test_weights_that_no_cache_keeps_come_from_main_memory(outputs: int, is_streamed: bool) -> None:
    """Tables were measured on weights that caches hold: 64 MB of them, read once, take as long as they take to come."""
    text = """
<ir_version: 9, opset_import: ["": 17]>
net (float[1,1024] x) => (float[1,OUTPUTS] y) <float[1024,OUTPUTS] w> { y = Gemm (x, w) }
"""
    graph = from_proto(read_model(text.replace("OUTPUTS", str(outputs))))
    annotate(graph)
    target = Target.load("x86-avx512-vnni")
    (layer,) = CostModel(target).estimate(graph).layers
    streamed = 4 * 1024 * outputs / (target.memory.bandwidth_gbps * 1e6)
    assert (layer.latency_ms == pytest.approx(streamed)) == is_streamed
