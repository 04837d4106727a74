"""Published latencies and energies of microcontrollers: MLPerf Tiny's results and ST's model zoo, told apart by engine.

What is left out, and why:

* accelerators, RISC-V, FPGAs and application processors; engines that run in float or trade speed for memory;
* the visual wake words network on ONNC, X-CUBE-AI from 8.1 on and Plumerai's engine of 2023: these halved its latency
  at once and no other network's, on every core. The reference network has channels that are always zero (Vela stores
  its 208 KB of weights in 74), so these engines seem to drop them; random weights cannot show that;
* ST's MiniResNet, GMP and IGN networks: board, clock or layers are not known for certain.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx

from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.targets.fit.networks import mlperf_tiny, stm32
from lpcc.targets.fit.networks.qdq import quantized


@dataclass(frozen=True)
class Board:
    """A board: how it is called in results, its core and its clock."""

    name: str
    core: str
    mhz: float


BOARDS = (
    Board("stm32l4r5", "m4", 120),
    Board("psoc62", "m4", 150),
    Board("numaker-m467", "m4", 200),
    Board("nrf5340", "m33", 128),
    Board("stm32u585", "m33", 160),
    Board("ek-ra6m4", "m33", 200),
    Board("stm32f746", "m7", 216),
    Board("stm32f769", "m7", 216),
    Board("stm32h7a3", "m7", 280),
    Board("stm32h747", "m7", 400),
    Board("ek-ra8d1", "m85", 480),
)
_PATTERNS = (
    ("l4r5", "stm32l4r5"),
    ("cy8cproto", "psoc62"),
    ("m467", "numaker-m467"),
    ("nrf5340", "nrf5340"),
    ("u5[78]5", "stm32u585"),
    ("ra6m4", "ek-ra6m4"),
    ("f746", "stm32f746"),
    ("h769", "stm32f769"),
    ("h7a3", "stm32h7a3"),
    ("h747", "stm32h747"),
    ("ra8d1", "ek-ra8d1"),
)
_OTHER_VARIANTS = re.compile("float|max_performance|min_ram", re.IGNORECASE)
_DROP_DEAD_CHANNELS = ("x-cube-ai 8.1", "x-cube-ai 9", "plumerai 2023", "onnc")


@dataclass(frozen=True)
class Row:
    """One measured latency. `system` tells apart who measured, which version of what, and where."""

    system: str
    engine: str
    board: Board
    network: str
    milliseconds: float
    microjoules: float | None = None

    @property
    def cycles(self) -> float:
        """Latency in clock cycles."""
        return self.milliseconds * self.board.mhz * 1e3


def rows(truth: Path) -> list[Row]:
    """All latencies that a model of int8 kernels on a Cortex-M should meet."""
    return [*mlperf(truth), *st(truth)]


def mlperf(truth: Path) -> Iterator[Row]:
    """Rows of MLPerf Tiny; energy is that of the energy run, whose latency is its own."""
    for line in _lines(truth / "mlperf_tiny.csv"):
        board, engine = _board(f"{line['system']} {line['variant']}"), _engine(line)
        if board is None or engine is None or _OTHER_VARIANTS.search(line["system"]):
            continue
        if line["benchmark"] == "vww" and engine in _DROP_DEAD_CHANNELS:
            continue
        energy = float(line["energy_uJ"]) if line["energy_uJ"] else None
        system = f"{line['submitter']} {line['version']} {engine} {board.name}"
        if "zephyr" in line["system"] and line["submitter"] == "Skymizer":
            system += " zephyr"
        yield Row(system, engine, board, line["benchmark"], float(line["lat_ms"]), energy)


def st(truth: Path) -> Iterator[Row]:
    """Rows of ST's model zoo for boards with a Cortex-M7."""
    for line in _lines(truth / "stm32_latency.csv"):
        board = _board(line["board"])
        if board is None or board.core != "m7" or line["format"].lower() != "int8":
            continue
        if stm32.build(line["model"], line["res"]) is None:
            continue
        engine = "x-cube-ai 10" if line["ver"].startswith("10") else "x-cube-ai 7.3"
        network = f"{line['model']}|{line['res']}"
        yield Row(f"ST {engine} {board.name}", engine, board, network, float(line["ms"]))


@cache
def network_kernels(network: str) -> tuple[Kernel, ...]:
    """The int8 kernels of a network that rows name."""
    model = _model(network)
    graph = from_proto(quantized(model))
    annotate(graph)
    return kernels(graph, bind(graph), "cmsis-nn")


def _model(network: str) -> onnx.ModelProto:
    if network in mlperf_tiny.NETWORKS:
        return mlperf_tiny.NETWORKS[network]()
    name, resolution = network.split("|")
    model = stm32.build(name, resolution)
    if model is None:
        raise KeyError(network)
    return model


def _board(text: str) -> Board | None:
    for pattern, name in _PATTERNS:
        if re.search(pattern, text, re.IGNORECASE):
            return next(board for board in BOARDS if board.name == name)
    return None


def _engine(line: dict[str, str]) -> str | None:
    system, submitter, version = line["system"].lower(), line["submitter"].lower(), line["version"]
    if "microtvm" in system:
        return "microtvm" if "native" in system else "cmsis-nn"
    if submitter == "stmicroelectronics":
        return {"0.7": "x-cube-ai 7.0", "1.0": "x-cube-ai 7.3", "1.1": "x-cube-ai 8.1"}.get(version, "x-cube-ai 9")
    if "x-cube-ai" in system:
        return "x-cube-ai 7.3"  # and 8.0, which is as fast within 3 %
    if submitter == "plumerai":
        return "plumerai 2023" if version == "1.1" else "plumerai 2022"
    if submitter == "renesas":
        return "cmsis-nn mve" if "ra8d1" in system else None  # a guess: neither names its software
    return {"bosch": "hale", "skymizer": "onnc", "nuvoton": "onnc"}.get(submitter)


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
