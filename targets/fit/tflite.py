"""Cost table of LiteRT (TensorFlow Lite with XNNPACK) on a Cortex-A76, from NAS-Bench-201 networks on a Raspberry Pi 5.

These networks are small and alike, all float and at one input size: what the table says of depthwise convolutions,
int8 or large images is not covered, and such kernels fall back to the roofline of the core. Columns of other devices
are no more than a check: the table, scaled by one factor, is compared with them.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.types import annotate
from lpcc.cost.terms import Term
from lpcc.graph import from_proto
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.least_squares import fit_relative
from lpcc.targets.fit.networks.nasbench201 import network

Floats = NDArray[np.float64]

_GHZ = 2.4
_IMAGE, _CLASSES = (3, 32, 32), 100
_COLUMN = "pi5_litert_32x32_ms"
_OTHERS = {
    "Pixel 6a": "pixel6a_litert_32x32_ms",
    "Pixel 3": "pixel3_tflite_32x32_ms",
    "Raspberry Pi 4": "pi4_tflite_32x32_ms",
}
_FOLDS = 5
_NEAR = 0.1

ROWS = (
    ("conv", "ceil(pixels/6)*ceil(cout/8)*depth", 6.0),
    ("conv", "pixels*cout", 0.5),
    ("pointwise", "ceil(pixels/6)*ceil(cout/8)*depth", 6.0),
    ("pointwise", "pixels*cout", 0.5),
    ("pool", "elements", 0.3),
    ("elementwise", "elements", 0.4),
    ("norm", "elements", 0.4),
    *((kind, "one", 1500.0) for kind in ("conv", "pointwise", "pool", "elementwise", "norm", "gemm")),
    ("gemm", "macs", 0.3),
)
"""Kind and term of each row of the table, and cycles to expect by count of instructions: these networks have calls and
elements in nearly fixed proportions, so that measurements alone would put all of it on some of the rows."""
_SHRINKAGE = 3e-4
_CALL = "one"
_NAMES = tuple(dict.fromkeys(_CALL if term == _CALL else f"{kind} {term}" for kind, term, _ in ROWS))
_PRIOR = np.array(list({_CALL if term == _CALL else f"{kind} {term}": cycles for kind, term, cycles in ROWS}.values()))


def _fit(work: Floats, times: Floats) -> Floats:
    """Milliseconds per unit of each name."""
    return fit_relative(work, times, prior=_PRIOR / (1e6 * _GHZ), shrinkage=_SHRINKAGE)


def checks(truth: Path) -> list[Check]:
    """Networks held out, five parts in turn; other devices: every other network fits table and factor."""
    _, work, times = _load(truth)
    errors = _held_out(work, times[_COLUMN]) / times[_COLUMN] - 1
    typical = float(np.median(np.abs(errors)))
    share = float((np.abs(errors) <= _NEAR).mean())
    found = [
        Check(
            "LiteRT on a Raspberry Pi 5: within 10 %",
            ">= 95 %",
            f"{100 * share:.0f} %",
            share >= 0.95,
            f"{len(errors)} NAS-Bench-201 networks held out, median error {100 * typical:.1f} %",
        )
    ]
    cycles = _fit(work[::2], times[_COLUMN][::2])
    for device, column in _OTHERS.items():
        ratio = work @ cycles / times[column]
        errors = ratio / median(ratio[::2].tolist()) - 1
        share = float((np.abs(errors[1::2]) <= _NEAR).mean())
        middle = float(np.median(np.abs(errors[1::2])))
        detail = "table and one factor from every other network" + ("; a noisy column" if "Pi 4" in device else "")
        found.append(
            Check(
                f"LiteRT on a {device} by the Raspberry Pi 5's table: median error",
                "told",
                f"{100 * middle:.1f} %",
                True,
                f"{detail}; {100 * share:.0f} % within 10 %",
            )
        )
    return found


def points(truth: Path) -> list[Points]:
    """Predictions of held-out networks."""
    names, work, times = _load(truth)
    predicted = _held_out(work, times[_COLUMN])
    return [Points("arm-cortex-a76/tflite", "latency, ms", tuple(names), tuple(times[_COLUMN]), tuple(predicted))]


def write(truth: Path, folder: Path) -> None:
    """The kernel table, fitted to all networks."""
    _, work, times = _load(truth)
    cycles = _fit(work, times[_COLUMN]) * 1e6 * _GHZ
    lines = [
        "# Clock cycles of LiteRT on a Cortex-A76, one thread: python -m lpcc.targets.fit.tflite",
        "# Fitted to 800 NAS-Bench-201 networks on a Raspberry Pi 5 (HW-NAS-Bench-360)",
        "kernel,format,quantity,term,coefficient",
    ]
    for kind, term, _ in ROWS:
        value = cycles[_NAMES.index(_CALL if term == _CALL else f"{kind} {term}")]
        lines.append(f"{kind},float32,cycles,{term},{value:.4g}")
    (folder / "tflite-a76.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _held_out(work: Floats, times: Floats) -> Floats:
    predicted = np.zeros(len(times))
    for part in range(_FOLDS):
        mine = np.arange(len(times)) % _FOLDS == part
        predicted[mine] = work[mine] @ _fit(work[~mine], times[~mine])
    return predicted


def _load(truth: Path) -> tuple[list[str], Floats, dict[str, Floats]]:
    names, work = [], []
    times: defaultdict[str, list[float]] = defaultdict(list)
    with (truth / "nasbench201_devices.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            names.append(row["arch"])
            graph = from_proto(network(row["arch"], _IMAGE, _CLASSES))
            annotate(graph)
            work.append(_amounts(kernels(graph, None, "tflite", ("aarch64", "neon"))))
            for column in (_COLUMN, *_OTHERS.values()):
                times[column].append(float(row[column]))
    return names, np.array(work), {column: np.array(values) for column, values in times.items()}


def _amounts(steps: tuple[Kernel, ...]) -> Floats:
    total = np.zeros(len(_NAMES))
    for kernel in steps:
        for kind, term, _ in ROWS:
            if kind == kernel.kind:
                name = _CALL if term == _CALL else f"{kind} {term}"
                total[_NAMES.index(name)] += Term.parse(term)(kernel)
    return total


def main() -> None:
    """Write the table and print how well it does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--tables", type=Path, default=Path(__file__).parent.parent / "tables")
    chosen = parser.parse_args()
    write(chosen.truth, chosen.tables)
    for check in checks(chosen.truth):
        print(f"{check.what}: {check.measured} ({check.asked}); {check.detail}")


if __name__ == "__main__":
    main()
