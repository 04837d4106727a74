from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcc.analysis.geometry import Geometry
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.cost.row_stationary import RowStationary
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit.eyeriss import alexnet
from lpcc.targets.fit.networks.nasbench201 import network

EXACT, CHIP = Target.load("eyeriss").row_stationary, Target.load("eyeriss/jssc2017").row_stationary
ARCH = "|{0}~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.mark.parametrize(
    ("loops", "used"),
    [
        (Geometry(cin=16, cout=16, kh=3, kw=3, ih=32, iw=32, oh=32, ow=32), (12, 8)),
        (Geometry(cin=64, cout=64, ih=8, iw=8, oh=8, ow=8), (8, 8)),
        (Geometry(cin=3, cout=16, kh=3, kw=3, ih=32, iw=32, oh=32, ow=32), (12, 8)),
        (Geometry(cin=64, cout=10), (8, 10)),
    ],
)
def test_exact_folding(loops: Geometry, used: tuple[int, int]) -> None:
    assert EXACT is not None
    assert EXACT.used(loops) == used


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 13), st.integers(1, 120))
def test_the_array_is_never_overfull(cin: int, cout: int, window: int, size: int) -> None:
    loops = Geometry(cin=cin, cout=cout, kh=window, kw=window, ih=size, iw=size, oh=size, ow=size)
    for array in (EXACT, CHIP):
        assert isinstance(array, RowStationary)
        rows, columns = array.used(loops)
        assert 0 < rows <= array.rows + 1e-9
        assert 0 < columns <= array.columns + 1e-9


def test_alexnet_on_the_chip() -> None:
    assert max(abs(error) for error in alexnet()) < 0.1


@pytest.mark.parametrize(
    ("op", "ms"), [("nor_conv_1x1", 0.24576), ("nor_conv_3x3", 1.47456), ("avg_pool_3x3", 1.47456)]
)
def test_an_operator_of_a_cell_takes_what_hw_nas_bench_says(op: str, ms: float) -> None:
    found = []
    for name in (op, "none"):
        graph = from_proto(network(ARCH.format(name)))
        annotate(graph)
        found.append(CostModel(Target.load("eyeriss")).estimate(graph).latency_ms)
    assert found[0] - found[1] == pytest.approx(ms, rel=1e-6)


def test_energy_is_counted_at_each_level() -> None:
    graph = from_proto(network(ARCH.format("nor_conv_3x3")))
    annotate(graph)
    layer = max(CostModel(Target.load("eyeriss")).estimate(graph).layers, key=lambda found: found.macs)
    counts = layer.counts
    assert counts["register"] == 4 * layer.macs
    assert counts["macs"] > counts["neighbour"] > counts["buffer"] > counts["dram"] > 0
    assert layer.energy_mj > counts["macs"] * 0.2e-9


def test_global_pooling_is_a_window_of_all() -> None:
    found = []
    for pool in ("GlobalAveragePool(x)", "AveragePool <kernel_shape = [7, 7]> (x)"):
        text = f'<ir_version: 9, opset_import: ["": 17]> g (float[1,64,7,7] x) => (float[1,64,1,1] y) {{ y = {pool} }}'
        graph = from_proto(onnx.parser.parse_model(text))
        annotate(graph)
        found.append(CostModel(Target.load("eyeriss")).estimate(graph).layers[0].counts)
    assert found[0] == found[1]
    assert found[0]["macs"] == 64 * 64 * 49
