"""What is promised of predicted instructions, latency and energy, on networks that no fit saw."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpcc.cost.table import KernelTable
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.instructions import physics
from lpcc.targets.fit.instructions.counts import Row, read
from lpcc.targets.fit.instructions.fitting import amount

_TARGETS = Path(__file__).parents[2]
COUNTS = _TARGETS / "fit" / "counts" / "onnxruntime-aarch64.csv"
CHECKED = _TARGETS / "fit" / "counts" / "check-onnxruntime-aarch64.csv"
TABLES = {
    "armv8": _TARGETS / "tables" / "onnxruntime-armv8.csv",
    "dotprod": _TARGETS / "tables" / "onnxruntime-armv8-dotprod.csv",
}
VIEW = 4500.0
"""Instructions of a kernel that touches no data, such as Reshape."""
_CORES = {"armv8": "Cortex-A53 and A72", "dotprod": "Cortex-A76"}


def checks(truth: Path) -> list[Check]:
    """Raspberry Pi 5 on NAS-Bench-201, fitted at either input size; counted instructions of networks and layers."""
    return [*_latency(truth), *instructions(read(CHECKED))]


def _latency(truth: Path) -> list[Check]:
    rows, table = physics.read(truth), KernelTable.read(TABLES["dotprod"])
    sizes = (physics.SQUARE, physics.STRIP)
    found = {size: physics.measured(rows, size, table) for size in sizes}
    made = []
    for fitted in sizes:
        numbers = physics.fit(found[fitted].part(slice(None, physics.FITTED)))
        for size in sizes:
            held = found[size].part(slice(physics.FITTED, None))  # networks that were fitted at neither size
            made += _pair(f"at {_text(size)}, fitted at {_text(fitted)}", numbers, held)
    numbers = physics.shipped(rows, table)
    for size in sizes:
        held = found[size].part(slice(physics.FITTED, None))
        made += _pair(f"at {_text(size)}, fitted at both sizes (as shipped)", numbers, held)
    return made


def _pair(where: str, numbers: physics.Physics, given: physics.Measured) -> list[Check]:
    """Latency and energy of networks that were held out."""
    errors = {"latency": numbers.ms(given) / given.ms - 1, "energy": numbers.mj(given) / given.mj - 1}
    made = []
    for what, asked in (("latency", 0.95), ("energy", 0.90)):
        share = float(np.mean(np.abs(errors[what]) <= 0.10))
        detail = f"{len(given.ms)} networks held out, mean error {np.mean(np.abs(errors[what])):.1%}"
        name = f"Raspberry Pi 5, onnxruntime, {what} {where}"
        made.append(Check(name, f"10 % on {asked:.0%}", f"{share:.1%}", share >= asked, detail))
    return made


def points(truth: Path) -> list[Points]:
    """Raspberry Pi 5: networks that the shipped numbers were not fitted to; instructions of networks for the cores."""
    rows, table = physics.read(truth), KernelTable.read(TABLES["dotprod"])
    numbers = physics.shipped(rows, table)
    held = rows[physics.FITTED :]
    names = tuple(row["arch"] for row in held)
    found = []
    for size in (physics.SQUARE, physics.STRIP):
        given = physics.measured(held, size, table)
        for what, measured, predicted in (
            (f"ms, {_text(size)}", given.ms, numbers.ms(given)),
            (f"mJ, {_text(size)}", given.mj, numbers.mj(given)),
        ):
            found.append(Points("raspberry-pi-5", what, names, tuple(measured), tuple(predicted)))
    counted = read(CHECKED)
    for target, isa in (("arm-cortex-a72", "armv8"), ("arm-cortex-a76", "dotprod")):
        for name in ("float32", "int8"):
            mine = [row for row in counted if row.network.endswith(name)]
            totals, sums = _whole(mine, KernelTable.read(TABLES[isa]), "armv8" if name == "float32" else isa)
            what = f"instructions, {name}"
            found.append(Points(target, what, tuple(totals), tuple(totals.values()), tuple(sums[n] for n in totals)))
    return found


def _text(size: physics.Size) -> str:
    return "x".join(map(str, size.image))


def instructions(rows: tuple[Row, ...]) -> list[Check]:
    """Whole networks and their layers against counts, which `rows` hold."""
    made = []
    for isa, path in TABLES.items():
        table = KernelTable.read(path)
        for name in ("float32", "int8"):
            counted = "armv8" if name == "float32" else isa  # floats are counted once: the same on both
            mine = [row for row in rows if row.network.endswith(name)]
            made += _compare(f"{_CORES[isa]}, {name}", mine, table, counted)
    return made


def _compare(what: str, rows: list[Row], table: KernelTable, isa: str) -> list[Check]:
    kernels = [row for row in rows if row.name != "network"]
    layers = [
        row for row in kernels if (isa, "mac") in row.counts and row.kernel.kind != "view"
    ]  # alone, a view copies
    errors = np.array([predicted(row, table) / amount(row, "total", isa) - 1 for row in layers])
    totals, sums = _whole(rows, table, isa)
    whole = np.array([sums[network] / total - 1 for network, total in totals.items()])
    return [
        _check(f"Instructions of networks, {what}", whole, 0.10, "networks"),
        _check(f"Instructions of layers, {what}", errors, 0.15, "layers (all but views)"),
    ]


def _whole(rows: list[Row], table: KernelTable, isa: str) -> tuple[dict[str, float], dict[str, float]]:
    """Instructions of each network: counted, and predicted as the sum of its kernels."""
    totals = {row.network: amount(row, "total", isa) for row in rows if row.name == "network"}
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        if row.name != "network":
            sums[row.network] += predicted(row, table)
    return totals, sums


def _check(what: str, errors: NDArray[np.float64], limit: float, unit: str) -> Check:
    share = float(np.mean(np.abs(errors) <= limit)) if errors.size else 0.0
    detail = f"{errors.size} {unit} that were not fitted, median error {np.median(np.abs(errors)):.1%}"
    return Check(what, f"{limit:.0%} on 90 %", f"{share:.1%}", share >= 0.90, detail)


def predicted(row: Row, table: KernelTable) -> float:
    """Instructions of a kernel by the table: none where it has no formula."""
    if row.kernel.kind == "view":
        return VIEW
    amounts = table.of(row.kernel) or {}
    return amounts.get("mac", 0.0) + amounts.get("other", 0.0)
