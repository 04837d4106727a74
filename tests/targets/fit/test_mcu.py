from __future__ import annotations

from pathlib import Path

import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit import mcu
from lpcc.targets.fit.cortex_m import rates
from lpcc.targets.fit.cortex_m.measured import rows
from lpcc.targets.fit.networks import mlperf_tiny
from lpcc.targets.fit.networks.qdq import quantized


def test_predictions_of_other_systems(truth: Path) -> None:
    counted, by_network, others, _, energy = mcu.checks(truth)
    assert counted.met, counted
    assert by_network.met, by_network
    assert _share(others.measured) > 0.93
    assert _share(energy.measured) > 0.95


def _share(text: str) -> float:
    near, _, total = text.removesuffix(" rows").partition(" of ")
    return int(near) / int(total)


def test_points_are_the_networks_of_a_target(truth: Path) -> None:
    found = {points.target: points for points in mcu.points(truth)}
    assert found["nrf5340"].names == ("ad", "ic", "kws", "vww")
    assert found["nrf5340"].within(0.15) == 1
    assert len(found["stm32h747/x-cube-ai"].names) >= 15
    assert found["stm32h747/x-cube-ai"].within(0.2) > 0.85


@pytest.mark.parametrize(
    ("name", "board"),
    [("arm-cortex-m4", "stm32l4r5"), ("arm-cortex-m33", "stm32u585"), ("arm-cortex-m7", "stm32h7a3")],
)
def test_target_files_state_what_is_fitted(truth: Path, name: str, board: str) -> None:
    fitted = rates.fit(rows(truth))
    target = Target.load(name)
    core = {"stm32l4r5": "m4", "stm32u585": "m33", "stm32h7a3": "m7"}[board]
    cycles = fitted.core[core] * fitted.waits[board]
    assert target.physics.cycles_per_instruction["other"] == pytest.approx(cycles, rel=0.02)
    flash = target.core.clock_ghz / fitted.flash[board]
    assert target.memory.bandwidth_gbps == pytest.approx(flash, rel=0.03)


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        ("arm-cortex-m7", "arm-cortex-m4"),
        ("arm-cortex-m55", "arm-cortex-m33"),
        ("arm-cortex-m4/x-cube-ai", "arm-cortex-m4"),
        ("arm-cortex-m4/x-cube-ai-9", "arm-cortex-m4/x-cube-ai"),
        ("stm32f446", "nrf52840"),
    ],
)
def test_order_of_targets(fast: str, slow: str) -> None:
    graph = from_proto(quantized(mlperf_tiny.image_classification()))
    annotate(graph)
    first, second = (CostModel(Target.load(name)).estimate(graph).latency_ms for name in (fast, slow))
    assert first < 0.95 * second


@pytest.mark.parametrize("name", ["arm-cortex-m4", "arm-cortex-m7", "arm-cortex-m4/x-cube-ai", "nrf5340"])
def test_int8_is_faster_than_float(name: str) -> None:
    model = mlperf_tiny.visual_wake_words()
    target = Target.load(name)
    took = []
    for form in (model, quantized(model)):
        graph = from_proto(form)
        annotate(graph)
        took.append(CostModel(target).estimate(graph).latency_ms)
    assert 1.1 < took[0] / took[1] < 5
