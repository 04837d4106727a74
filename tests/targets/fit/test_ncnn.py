from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit import ncnn
from lpcc.targets.fit.networks.ncnn import networks


@pytest.mark.slow
def test_networks_that_were_not_fitted(truth: Path) -> None:
    found = ncnn.report(ncnn.held_out(truth))
    assert {core: row["within"] > least for core, row in found.items() for least in [_LEAST[core]]} == dict.fromkeys(
        ncnn.CORES, True
    )
    assert min(row["spearman"] for row in found.values()) >= 0.97
    pairs = sum(row["pairs"] for row in found.values())
    assert sum(row["sign"] * row["pairs"] for row in found.values()) / pairs >= 0.9


_LEAST = {"A53": 0.78, "A55": 0.55, "A72": 0.83, "A76": 0.45}


def test_the_networks_have_their_published_multiply_accumulates(truth: Path) -> None:
    import json

    listed = json.loads((truth / "ncnn_networks.json").read_text(encoding="utf-8"))
    for name, model in networks(truth).items():
        graph = from_proto(model)
        annotate(graph)
        cost = CostModel(Target.load("arm-cortex-a53/ncnn")).estimate(graph)
        assert cost.macs == pytest.approx(listed[name]["macs"], rel=0.01), name


@pytest.mark.parametrize(("core", "half"), [("a53", False), ("a76", True)])
def test_the_targets_price_what_was_fitted(truth: Path, core: str, half: bool) -> None:
    times, work = ncnn.read(truth), ncnn.amounts(truth)
    cycles = ncnn.table(times, work).of(ncnn.Board("", core.upper(), 1.0, "2024").shared)
    target = Target.load(f"arm-cortex-{core}/ncnn")
    models = networks(truth)
    for name in ("squeezenet", "mobilenet_int8", "shufflenet", "squeezenet_ssd"):
        graph = from_proto(models[name])
        annotate(graph)
        cost = CostModel(target).estimate(graph)
        layers = sum(layer.latency_ms for layer in cost.layers if layer.kernel != "view")
        fitted = sum(ncnn.parts(work[half, False][name], cycles, target.core.clock_ghz).values())
        assert layers == pytest.approx(fitted, rel=0.02), name


def test_int8_does_not_pay_for_winograd_in_half_precision(truth: Path) -> None:
    models = networks(truth)

    def gain(target: str) -> float:
        found = []
        for name in ("vgg16", "vgg16_int8"):
            graph = from_proto(models[name])
            annotate(graph)
            found.append(CostModel(Target.load(target)).estimate(graph).latency_ms)
        return found[0] / found[1]

    assert gain("arm-cortex-a76/ncnn") < 0.9
    assert gain("arm-cortex-a72/ncnn") > 1.0
    assert np.isfinite(gain("arm-cortex-a55/ncnn"))
