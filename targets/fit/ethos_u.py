"""Ethos-U55: cycles and SRAM against what Arm's compiler Vela estimates for the networks of MLPerf Tiny.

No number is fitted to these rows: the targets hold the published features of the hardware. But the formulas, the size
of compressed weights and the cost of a softmax were checked on Vela's reports, layer by layer, of the same networks;
what was not looked at before (ResNet-8 of 2.5 times the width, other memories) is in the targets' [quality].

The networks are built with random weights. As the time to read weights depends on how far they can be compressed,
values are set to zero, a share that is the same for all layers of a network, until all weights together compress as far
as the trained ones do.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel
from lpcc.graph import from_proto
from lpcc.target import Target
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.networks.mlperf_tiny import NETWORKS
from lpcc.targets.fit.networks.qdq import quantized

FILES = {"ad01_int8": "ad", "pretrainedResnet_quant": "ic", "kws_ref_model": "kws", "vww_96_int8": "vww"}
"""Networks by the name of their file in Vela's reports."""

_LIKE = "ethos-u55-128"  # whose encoding the share of zeros is chosen on


def checks(truth: Path) -> list[Check]:
    """All rows: cycles and SRAM."""
    detail = "{} estimates of ethos-u-vela 5.2; the formulas were checked on its reports of layers of these networks"
    found = []
    for quantity, limit in (("cycles", 0.15), ("SRAM", 0.1)):
        errors = [e for p in points(truth) if quantity in p.what for e in p.errors]
        worst = max(errors, key=abs)
        average = sum(abs(e) for e in errors) / len(errors)
        measured = f"at most {worst:+.1%}, {average:.1%} on average"
        asked = f"within {limit:.0%}"
        found.append(Check(f"Ethos-U55, {quantity}", asked, measured, abs(worst) <= limit, detail.format(len(errors))))
    return found


def points(truth: Path) -> list[Points]:
    """Cycles and KiB of SRAM of each target."""
    rows = _rows(truth)
    found = []
    for name in sorted({row["target"] for row in rows}):
        mine = [row for row in rows if row["target"] == name]
        networks = tuple(FILES[row["network"]] for row in mine)
        costs = [estimate(name, FILES[r["network"]], _compressed(rows, r["network"])) for r in mine]
        clock = Target.load(name).core.clock_ghz * 1e6
        cycles = tuple(float(r["cycles_total"]) for r in mine)
        sram = tuple(float(r["sram_memory_used"]) for r in mine)
        found.append(Points(name, "cycles", networks, cycles, tuple(c.latency_ms * clock for c in costs)))
        found.append(Points(name, "SRAM, KiB", networks, sram, tuple(c.peak_activation_bytes / 1024 for c in costs)))
    return found


@lru_cache(maxsize=64)
def estimate(target: str, network: str, compressed: float) -> Cost:
    """Cost of a network whose weights compress to so many bytes."""
    graph = from_proto(_with_zeros(network, _zeros(network, compressed)))
    annotate(graph)
    return CostModel(Target.load(target)).estimate(graph)


@lru_cache(maxsize=16)
def _zeros(network: str, compressed: float) -> float:
    """Share of zeros with which the weights take that much: by halving."""
    low, high = 0.0, 1.0
    for _ in range(8):
        share = (low + high) / 2
        graph = from_proto(_with_zeros(network, share))
        annotate(graph)
        layers = CostModel(Target.load(_LIKE)).estimate(graph).layers
        if sum(layer.counts.get("encoded_bytes", 0.0) for layer in layers) > compressed:
            low = share
        else:
            high = share
    return low


def _with_zeros(network: str, share: float) -> onnx.ModelProto:
    """A network in int8, with that share of each layer's weights set to zero at random."""
    model = quantized(NETWORKS[network]())
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor)
            kept = np.where(rng.random(values.shape) < share, np.int8(0), values)
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    return model


def _compressed(rows: list[dict[str, str]], network: str) -> float:
    """Bytes that the trained weights of a network take, the same within 1 % for all sizes of the array."""
    return max(float(row["total_npu_encoded_weights"]) for row in rows if row["network"] == network)


def _rows(truth: Path) -> list[dict[str, str]]:
    """The estimates at Vela's default setting, of networks and sizes that are known here."""
    with (truth / "vela_estimates_mlperf_tiny.csv").open(encoding="utf-8", newline="") as file:
        rows: list[Mapping[str, str]] = [r for r in csv.DictReader(file) if r["experiment"] == "default"]
    named = [{**row, "target": row["accelerator_configuration"].lower().replace("_", "-")} for row in rows]
    return [row for row in named if row["network"] in FILES and row["target"] in Target.names()]
