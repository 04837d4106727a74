"""Memory of networks on microcontrollers: what X-CUBE-AI needs beside activations and weights, and how well that fits.

``python -m lpcc.targets.fit.memory --truth FOLDER`` prints the section `footprint` of its targets.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcc.analysis.kernels import kernels
from lpcc.analysis.macs import stored_bytes
from lpcc.analysis.memory import memory
from lpcc.analysis.runtimes import runtime_of
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.cost.footprint import Footprint, amounts
from lpcc.graph import from_proto
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.least_squares import fit_relative
from lpcc.targets.fit.networks import stm32
from lpcc.targets.fit.networks.qdq import quantized

TABLE = "stm32_memory.csv"
_RUNTIME = "x-cube-ai"
_TARGET = "arm-cortex-m7/x-cube-ai"
_LIMIT = 0.15
_SAME_WEIGHTS = 0.05
"""How far the weights of a network that was built anew may be off those that ST states: else it is another network."""


@dataclass(frozen=True)
class Row:
    """A network of ST's table. Published sizes in KiB; what was computed from the network itself in bytes."""

    name: str
    family: str
    integer: bool
    runtime_kib: float
    ram_kib: float
    flash_kib: float
    weights_kib: float
    code_kib: float
    arena: int
    stored: int
    amounts: tuple[int, int, int]

    @property
    def same_network(self) -> bool:
        """Whether the weights say that this is the network that ST measured."""
        return abs(self.stored / 1024 / self.weights_kib - 1) <= _SAME_WEIGHTS

    def ram(self, footprint: Footprint) -> float:
        """Predicted RAM in KiB."""
        count, layers, channels = self.amounts
        return (
            footprint.sram_kib
            + (
                self.arena
                + footprint.sram_bytes_per_kernel * count
                + footprint.sram_bytes_per_layer * layers
                + footprint.sram_bytes_per_channel * channels
            )
            / 1024
        )

    def flash(self, footprint: Footprint) -> float:
        """Predicted flash in KiB."""
        count, _, channels = self.amounts
        tables = footprint.flash_bytes_per_kernel * count + footprint.flash_bytes_per_channel * channels
        return footprint.flash_kib + (self.stored + tables) / 1024


def read(truth: Path) -> tuple[Row, ...]:
    """The rows of ST's table whose networks can be built."""
    with (truth / TABLE).open(encoding="utf-8", newline="") as file:
        return tuple(row for entry in csv.DictReader(file) if (row := _row(entry)) is not None)


def _row(entry: dict[str, str]) -> Row | None:
    model = stm32.build(entry["model"], entry["res"])
    if model is None:
        return None
    graph = from_proto(model if entry["format"] == "Float" else quantized(model))
    annotate(graph)
    shapes = bind(graph)
    steps = kernels(graph, shapes, _RUNTIME)
    used = memory(graph, shapes, steps, runtime_of(_RUNTIME))
    return Row(
        name=f"{entry['model']} {entry['res']} {entry['format']}",
        family=re.sub(r"[\d.x ]+$", "", entry["model"]).removeprefix("ST "),
        integer=entry["format"] != "Float",
        runtime_kib=float(entry["runtime_kib"]),
        ram_kib=float(entry["total_ram_kib"]),
        flash_kib=float(entry["total_flash_kib"]),
        weights_kib=float(entry["weights_kib"]),
        code_kib=float(entry["code_kib"]),
        arena=used.arena.size,
        stored=stored_bytes(graph),
        amounts=amounts(steps),
    )


def fit(rows: Sequence[Row]) -> Footprint:
    """What the runtime takes, by the integer ones: RAM for each kernel and layer; flash once, by kernels and channels.

    Float kernels are other code, and smaller.
    """
    rows = [row for row in rows if row.integer]
    counts: NDArray[np.float64] = np.array([row.amounts for row in rows], dtype=np.float64)
    sram = fit_relative(counts[:, :2], [row.runtime_kib * 1024 for row in rows])
    once = np.full(len(rows), 1024.0)
    flash = fit_relative(np.column_stack([once, counts[:, 0], counts[:, 2]]), [row.code_kib * 1024 for row in rows])
    return Footprint(
        sram_bytes_per_kernel=round(float(sram[0])),
        sram_bytes_per_layer=round(float(sram[1])),
        flash_kib=round(float(flash[0]), 1),
        flash_bytes_per_kernel=round(float(flash[1])),
        flash_bytes_per_channel=round(float(flash[2]), 1),
    )


def held_out(rows: Sequence[Row]) -> tuple[Points, Points]:
    """RAM and flash of each network, predicted by a fit that saw no network of its family."""
    fits = {f: fit([row for row in rows if row.family != f]) for f in sorted({row.family for row in rows})}
    integer = [row for row in rows if row.integer]
    return (
        Points(
            _TARGET,
            "RAM, KiB",
            tuple(row.name for row in rows),
            tuple(row.ram_kib for row in rows),
            tuple(row.ram(fits[row.family]) for row in rows),
        ),
        Points(
            _TARGET,
            "flash (int8), KiB",
            tuple(row.name for row in integer),
            tuple(row.flash_kib for row in integer),
            tuple(row.flash(fits[row.family]) for row in integer),
        ),
    )


def checks(truth: Path) -> list[Check]:
    """RAM and flash against ST's table, each family of networks held out of the fit."""
    found = read(truth)
    rows = [row for row in found if row.same_network]
    others = ", ".join(row.name for row in found if not row.same_network)
    return [
        Check(
            what=f"{points.what.split(',')[0]} of ST's networks under X-CUBE-AI",
            asked=f"within {_LIMIT:.0%} each",
            measured=f"{points.within(_LIMIT):.0%} of {len(points.names)}, worst {max(map(abs, points.errors)):.1%}",
            met=points.within(_LIMIT) == 1,
            detail=f"held out by family; left out, as their weights are others: {others or 'none'}",
        )
        for points in held_out(rows)
    ]


def points(truth: Path) -> tuple[Points, Points]:
    """RAM and flash of the networks that could be rebuilt, each family held out of the fit."""
    return held_out([row for row in read(truth) if row.same_network])


def main() -> None:
    """Print the section of the target, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="folder with the published tables")
    truth = parser.parse_args().truth
    rows = [row for row in read(truth) if row.same_network]
    print("[footprint]")
    for key, value in vars(fit(rows)).items():
        print(f"{key} = {value:g}")
    for points in held_out(rows):
        print(f"# {points.what}: measured, predicted, error")
        for name, measured, predicted in zip(points.names, points.measured, points.predicted, strict=True):
            print(f"# {name:40} {measured:8.1f} {predicted:8.1f} {predicted / measured - 1:+7.1%}")
    for check in checks(truth):
        print("#", check)


if __name__ == "__main__":
    main()
