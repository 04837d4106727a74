"""Ethos-U55 against layers that ethos-u-vela 5.2 estimated (--verbose-performance) for networks of MLPerf Tiny."""

from __future__ import annotations

import onnx
import pytest

from lpcc.analysis import weight_forms
from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel, LayerCost
from lpcc.cost.ethos_u import _Array, _Layer, find_block
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit.networks.builder import Builder
from lpcc.targets.fit.networks.mlperf_tiny import NETWORKS
from lpcc.targets.fit.networks.qdq import quantized

SMALL, LARGE = (_Array(1, 2, 8, 24), 4, 8), (_Array(2, 2, 8, 48), 8, 16)


def layer(unit: str, cin: int, cout: int, taps: int, stride: int, size: int, out: int) -> _Layer:
    return _Layer(unit, cin, cout, taps, taps, stride, stride, 1, 1, size, size, out, out)


@pytest.mark.parametrize(
    ("loops", "output", "part"),
    [
        (layer("conv", 3, 16, 3, 1, 32, 32), (4, 32, 16), True),
        (layer("conv", 16, 16, 3, 1, 32, 32), (5, 16, 16), True),
        (layer("conv", 32, 32, 3, 1, 16, 16), (8, 8, 16), False),
        (layer("conv", 16, 32, 1, 2, 32, 16), (1, 16, 32), False),
        (layer("conv", 32, 64, 3, 2, 16, 8), (4, 8, 32), False),
        (layer("depthwise", 128, 128, 3, 1, 6, 6), (2, 6, 80), True),
        (layer("conv", 128, 128, 1, 1, 6, 6), (6, 6, 48), False),
    ],
)
def test_blocks_that_vela_chooses_on_128_macs(loops: _Layer, output: tuple[int, int, int], part: bool) -> None:
    block = find_block(*SMALL, loops)
    assert (block.height, block.width, block.depth) == output
    if loops.unit == "conv":
        assert block.part == part


def test_a_block_fits_and_is_whole_micro_blocks() -> None:
    for array, granule, accumulators in (SMALL, LARGE):
        block = find_block(array, granule, accumulators, layer("conv", 256, 512, 3, 1, 64, 64))
        assert (block.height % array.height, block.width % array.width, block.depth % array.depth) == (0, 0, 0)
        inputs = 2 * -(-block.input_height * block.input_width * block.input_depth // 1024)
        assert inputs + 2 * -(-block.height * block.width * block.depth * 4 // 1024) <= array.banks


def cost(network: str, target: str = "ethos-u55-128") -> Cost:
    graph = from_proto(quantized(NETWORKS[network]()))
    annotate(graph)
    return CostModel(Target.load(target)).estimate(graph)


def test_npu_cycles_of_keyword_spotting() -> None:
    layers = [found for found in cost("kws").layers if found.counts.get("npu_cycles", 0) > 4000]
    cycles = [found.counts["npu_cycles"] for found in layers]
    assert cycles[1:9] == pytest.approx([8124, 5944] * 4, rel=0.005)
    assert cycles[0] == pytest.approx(26185, rel=0.02)


@pytest.mark.parametrize("macs", [32, 64, 128, 256])
def test_more_macs_are_faster(macs: int) -> None:
    if macs > 32:
        assert cost("ic", f"ethos-u55-{macs}").latency_ms < cost("ic", f"ethos-u55-{macs // 2}").latency_ms
    assert cost("ic", f"ethos-u55-{macs}").assumptions == ()


def test_fully_connected_layers_wait_for_flash() -> None:
    found = cost("ad")
    assert {layer.bound for layer in found.layers if layer.kernel == "gemm"} == {"memory"}
    assert cost("ad", "ethos-u55-256").latency_ms == pytest.approx(found.latency_ms, rel=0.01)


def test_float_runs_beside_the_npu_and_is_said_to() -> None:
    graph = from_proto(NETWORKS["ic"]())
    annotate(graph)
    found = CostModel(Target.load("ethos-u55-128")).estimate(graph)
    assert found.latency_ms > 20 * cost("ic").latency_ms
    assert any("in float" in note for note in found.assumptions)


def test_channels_in_sixteens_take_sram() -> None:
    net = Builder("narrow")
    x = net.conv(net.input(1, 3, 32, 32), 8, 3, activation="relu")
    x = net.conv(net.conv(x, 8, 3, activation="relu"), 8, 3, activation="relu")
    graph = from_proto(quantized(net.model(x)))
    annotate(graph)
    found = CostModel(Target.load("ethos-u55-128")).estimate(graph)
    assert found.peak_activation_bytes >= 2 * 32 * 32 * 16


def test_weights_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    form = weight_forms.weight_form
    monkeypatch.setattr(weight_forms, "weight_form", lambda nodes: read.append(id(nodes[0])) or form(nodes))
    cost("kws")
    assert len(read) == len(set(read)) > 5


def by_op(target: str, body: str) -> dict[str, LayerCost]:
    """Prices by operator of a network between Q and DQ, on an image of 64 channels of 7x7."""
    text = f"""<ir_version: 9, opset_import: ["": 17]> g (float[1,64,7,7] x) => (float[1,64,a,b] y)
        <float s = {{0.1}}, int8 z = {{0}}> {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) {body}
        r = QuantizeLinear(c, s, z) y = DequantizeLinear(r, s, z) }}"""
    graph = from_proto(onnx.parser.parse_model(text))
    annotate(graph)
    return {layer.op: layer for layer in CostModel(Target.load(target)).estimate(graph).layers}


def test_global_pooling_is_a_window_of_all() -> None:
    whole = by_op("ethos-u55-128", "c = GlobalAveragePool(d)")["GlobalAveragePool"]
    window = by_op("ethos-u55-128", "c = AveragePool <kernel_shape = [7, 7]> (d)")["AveragePool"]
    assert whole.counts == window.counts
    assert whole.counts["npu_cycles"] > 7 * 7 * 64 / 8


def test_a_table_of_256_values_takes_in_hard_swish() -> None:
    (found,) = (layer for op, layer in by_op("ethos-u55-128", "c = HardSwish(d)").items() if op == "HardSwish")
    assert "npu_cycles" in found.counts


def test_conversions_that_are_views_take_no_energy() -> None:
    found = by_op("ethos-u55-128", "c = MaxPool <kernel_shape = [7, 7]> (d)")
    assert found["QuantizeLinear"].energy_mj == 0
    assert found["MaxPool"].energy_mj > 0
