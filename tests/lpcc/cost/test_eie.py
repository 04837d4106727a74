"""EIE's cost model against those of the paper's layers that are of AlexNet and VGG-16 (from memory)."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel
from lpcc.cost.eie import padded_entries
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit.networks.builder import Builder

EIE = Target.load("eie")
PAPER = {  # rows, columns, share of weights and of inputs that are not zero, microseconds
    "AlexNet 6": (4096, 9216, 0.09, 0.351, 30.3),
    "AlexNet 7": (4096, 4096, 0.09, 0.353, 12.2),
    "AlexNet 8": (1000, 4096, 0.25, 0.375, 9.9),
    "VGG 6": (4096, 25088, 0.04, 0.183, 34.4),
    "VGG 7": (4096, 4096, 0.04, 0.375, 8.7),
    "VGG 8": (1000, 4096, 0.23, 0.411, 7.5),
}


def micros(rows: int, columns: int, density: float, live: float) -> float:
    assert EIE.eie is not None
    entries = padded_entries(rows * columns, density, rows / EIE.eie.elements, EIE.eie.longest_run)
    return entries * live / (EIE.eie.elements * EIE.eie.balance * EIE.core.clock_ghz * 1e3)


def test_times_of_the_paper() -> None:
    errors = {name: micros(*case[:4]) / case[4] - 1 for name, case in PAPER.items()}
    assert median(abs(error) for error in errors.values()) < 0.15
    assert max(errors.values(), key=abs) == errors["VGG 6"] > -0.3, "its padding is worse than random"
    assert errors["AlexNet 6"] == pytest.approx(0.02, abs=0.02)


def test_paddings_against_counting() -> None:
    rng = np.random.default_rng(0)
    columns, rows, density = 4000, 64, 0.04
    stored = 0
    for _ in range(columns):
        gap = 0
        for alive in rng.random(rows) < density:
            gap += 1
            if alive:
                stored += 1 + (gap - 1) // 16
                gap = 0
    assert padded_entries(columns * rows, density, rows, 15) == pytest.approx(stored, rel=0.05)


def fully_connected(density: float, clusters: int = 8) -> Cost:
    net = Builder("fc")
    model = net.model(net.dense(net.dense(net.input(1, 1024), 512), 512))
    graph = from_proto(model)
    rng = np.random.default_rng(1)
    for node in graph.nodes:
        weight = node.inputs[1]
        values = rng.integers(1, clusters + 1, weight.shape).astype(np.float32)
        weight.values = values * (rng.random(weight.shape) < density)
    annotate(graph)
    return CostModel(EIE).estimate(graph)


def test_cycles_and_energy_follow_the_weights() -> None:
    dense, sparse = fully_connected(0.5), fully_connected(0.05)
    assert dense.latency_ms > 4 * sparse.latency_ms
    assert dense.energy_mj > 2 * sparse.energy_mj
    assert not any("different weights" in note for note in dense.assumptions)
    assert any("different weights" in note for note in fully_connected(0.5, clusters=200).assumptions)


def test_weights_that_do_not_fit_come_from_dram() -> None:
    small = replace(EIE, eie=replace(EIE.eie, weight_kib=1))
    net = Builder("fc")
    graph = from_proto(net.model(net.dense(net.input(1, 1024), 1024)))
    annotate(graph)
    inside, outside = (CostModel(target).estimate(graph).layers[0] for target in (EIE, small))
    assert inside.counts["dram_bytes"] == 0
    assert outside.counts["dram_bytes"] > 1024 * 1024
    assert outside.energy_mj > inside.energy_mj
    assert outside.bound == "memory"


def test_inputs_of_the_first_layer_are_dense_whatever_stands_before_it() -> None:
    found = []
    for before in (False, True):
        net = Builder("flat")
        x = net.flatten(net.input(1, 16, 8, 8)) if before else net.input(1, 1024)
        graph = from_proto(net.model(net.dense(x, 1024)))
        annotate(graph)
        found.append(CostModel(EIE).estimate(graph).latency_ms)
    assert found[0] == pytest.approx(found[1])
