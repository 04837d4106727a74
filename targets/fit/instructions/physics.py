"""What an instruction costs on a device: fitted to measured NAS-Bench-201 networks on a Raspberry Pi 5."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcc.analysis.kernels import kernels
from lpcc.analysis.types import annotate
from lpcc.cost.table import KernelTable
from lpcc.graph import from_proto
from lpcc.targets.fit.least_squares import fit_relative
from lpcc.targets.fit.networks.nasbench201 import network

CLOCK_GHZ = 2.4
FITTED = 100
"""Networks of one input size that are fitted; all others are held out."""


@dataclass(frozen=True)
class Size:
    """An input size of the measurements: shape, classes, and the names of their columns."""

    image: tuple[int, int, int]
    classes: int
    column: str


SQUARE = Size((3, 32, 32), 100, "pi5_ort_32x32")
STRIP = Size((1, 52, 16), 18, "pi5_ort_52x16")


@dataclass(frozen=True)
class Measured:
    """Networks at one size: instructions (mac, other), in millions, and a 1; milliseconds; millijoules."""

    amounts: NDArray[np.float64]
    ms: NDArray[np.float64]
    mj: NDArray[np.float64]

    def part(self, which: slice) -> Measured:
        """Some of the networks."""
        return Measured(self.amounts[which], self.ms[which], self.mj[which])


@dataclass(frozen=True)
class Physics:
    """Cycles per instruction of a class, microseconds of an inference, watts."""

    mac: float
    other: float
    inference_us: float
    watts: float

    def ms(self, measured: Measured) -> NDArray[np.float64]:
        """Predicted latencies."""
        per = np.array([self.mac / CLOCK_GHZ, self.other / CLOCK_GHZ, self.inference_us / 1e3])
        found: NDArray[np.float64] = measured.amounts @ per
        return found

    def mj(self, measured: Measured) -> NDArray[np.float64]:
        """Predicted energies."""
        return self.watts * self.ms(measured)


def read(truth: Path) -> list[dict[str, str]]:
    """The measured networks in seeded order: the first are fitted."""
    with (truth / "nasbench201_devices.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def measured(rows: Sequence[dict[str, str]], size: Size, table: KernelTable) -> Measured:
    """Predicted instructions of each network at a size, beside its measurements."""
    return Measured(
        np.array([_amounts(row["arch"], size, table) for row in rows]),
        np.array([float(row[f"{size.column}_ms"]) for row in rows]),
        np.array([float(row[f"{size.column}_mj"]) for row in rows]),
    )


def _amounts(arch: str, size: Size, table: KernelTable) -> list[float]:
    graph = from_proto(network(arch, size.image, size.classes))
    annotate(graph)
    mac = other = 0.0
    for kernel in kernels(graph, isa=("aarch64",)):
        amounts = table.of(kernel) or {}
        mac += amounts.get("mac", 0.0)
        other += amounts.get("other", 0.0)
    return [mac / 1e6, other / 1e6, 1.0]


def fit(given: Measured) -> Physics:
    """Coefficients from measured networks; large errors count less than their squares, as some networks are odd."""
    weights = np.ones(len(given.ms))
    found = fit_relative(given.amounts, given.ms)
    for _ in range(5):
        errors = np.abs(given.amounts @ found / given.ms - 1)
        weights = 0.02 / np.maximum(errors, 0.02)
        found = fit_relative(given.amounts, given.ms, weights=weights)
    watts = float(np.median(given.mj / (given.amounts @ found)))
    mac, other, fixed = (float(value) for value in found)
    return Physics(mac * CLOCK_GHZ, other * CLOCK_GHZ, fixed * 1e3, watts)


def shipped(rows: Sequence[dict[str, str]], table: KernelTable) -> Physics:
    """The numbers of the target raspberry-pi-5: from the first networks of `rows`, at both input sizes."""
    first, second = (measured(rows[:FITTED], size, table) for size in (SQUARE, STRIP))
    return fit(
        Measured(
            np.concatenate([first.amounts, second.amounts]),
            np.concatenate([first.ms, second.ms]),
            np.concatenate([first.mj, second.mj]),
        )
    )
