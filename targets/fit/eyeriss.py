"""Eyeriss: the array's geometry against HW-NAS-Bench's analytic column, and against the chip's published times.

That column is the sum of a constant and a time for each operator of a cell. A 3x3 convolution takes 96 elements of the
array at 250 MHz and a 1x1 convolution 64, as exact folding onto 12 x 14 elements says; pooling counts as a convolution.
Clock and folding were chosen because they explain all operators at once. The constant, which stands for stem and head
and which geometry does not explain (13 to 68 % of a network), is the only number that is fitted.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from statistics import median

from lpcc.analysis.geometry import Geometry
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import from_proto
from lpcc.target import Overhead, Target
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.networks.nasbench201 import network

ALEXNET = (
    (Geometry(batch=4, cin=3, cout=96, kh=11, kw=11, sh=4, sw=4, ih=227, iw=227, oh=55, ow=55), 16.5),
    (Geometry(batch=4, groups=2, cin=48, cout=128, kh=5, kw=5, ih=31, iw=31, oh=27, ow=27), 39.2),
    (Geometry(batch=4, cin=256, cout=384, kh=3, kw=3, ih=15, iw=15, oh=13, ow=13), 21.8),
    (Geometry(batch=4, groups=2, cin=192, cout=192, kh=3, kw=3, ih=15, iw=15, oh=13, ow=13), 16.0),
    (Geometry(batch=4, groups=2, cin=192, cout=128, kh=3, kw=3, ih=15, iw=15, oh=13, ow=13), 10.0),
)
"""AlexNet's convolutions and the milliseconds that the chip took for four images (JSSC 2017, from memory)."""

_EVERY = 25  # one network of so many is predicted: they are sums of the same few numbers


def checks(truth: Path) -> list[Check]:
    """The column, with the constant fitted on other networks, and AlexNet on the chip."""
    (found,) = points(truth)
    worst = max(abs(error) for error in found.errors)
    fitted = f"{len(found.errors)} networks; one constant fitted to others; clock and folding chosen on this column"
    asked = Check("Eyeriss, HW-NAS-Bench's column", "within 10 %", f"at most {worst:.2%} off", worst <= 0.1, fitted)
    errors = alexnet()
    off = ", ".join(f"{error:+.0%}" for error in errors)
    detail = f"one efficiency fitted to all five; {sum(abs(e) for e in errors) / len(errors):.0%} on average"
    return [asked, Check("Eyeriss chip, AlexNet's five convolutions", "none", off, met=True, detail=detail)]


def points(truth: Path) -> list[Points]:
    """Some of the networks, with the constant fitted on the others."""
    rows = _rows(truth)
    constant = fit(rows[1::_EVERY])
    held = rows[::_EVERY]
    predicted = tuple(_predict(arch) + constant for arch, _ in held)
    return [Points("eyeriss", "latency, ms", tuple(a for a, _ in held), tuple(ms for _, ms in held), predicted)]


def fit(rows: list[tuple[str, float]]) -> float:
    """Milliseconds that the column has more than the geometry says: the median over some networks."""
    return median(ms - _predict(arch) for arch, ms in rows)


def alexnet() -> list[float]:
    """Relative errors of the chip's target on AlexNet's convolutions."""
    target = Target.load("eyeriss/jssc2017")
    array = target.row_stationary
    if array is None:
        return []
    return [array.cycles(loops) / (target.core.clock_ghz * 1e6) / ms - 1 for loops, ms in ALEXNET]


def _predict(arch: str) -> float:
    """Milliseconds of a network by geometry alone."""
    target = replace(Target.load("eyeriss"), overhead_us=Overhead())
    graph = from_proto(network(arch))
    annotate(graph)
    return CostModel(target).estimate(graph).latency_ms


def _rows(truth: Path) -> list[tuple[str, float]]:
    with (truth / "nasbench201_devices.csv").open(encoding="utf-8", newline="") as file:
        return [(r["arch"], float(r["eyeriss_32x32_ms"])) for r in csv.DictReader(file) if r["eyeriss_32x32_ms"]]


def main() -> None:
    """Print the constant in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    print(f"[overhead_us]\ninference = {fit(_rows(parser.parse_args().truth)[::_EVERY]) * 1e3:.1f}")


if __name__ == "__main__":
    main()
