"""Jetson Nano's GPU with ncnn (Vulkan): a time per call, per multiply-accumulate and per byte.

Run as ``python -m lpcc.targets.fit.jetson_nano --truth ../shared/truth``: prints the table of the target.
"""

from __future__ import annotations

import argparse
import csv
import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcc.cost.kinds import ELEMENT_KINDS
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.least_squares import fit_relative

BOARD = "NVIDIA Jetson Nano"
KINDS = ("conv", "winograd", "pointwise", "depthwise")
TERMS = (*KINDS, "weights", "elements", "call")
_FREE = frozenset({"Input", "Split", "Dropout", "Noop", "Reshape", "Flatten"})
_OTHERS = tuple(kind for kind in ELEMENT_KINDS if kind not in ("quantize", "dequantize"))
_PRODUCTS = (*KINDS, "grouped", "gemm", "matmul")


def checks(truth: Path) -> list[Check]:
    """Networks left out one by one."""
    (found,) = points(truth)
    errors = np.abs(found.errors)
    measured = f"{found.within(0.2):.0%} within 20 %, median {np.median(errors):.0%}, at most {errors.max():.0%}"
    detail = f"{len(errors)} networks of ncnn's benchmark in fp16, each predicted from a fit on the others"
    return [Check("Jetson Nano, ncnn on the GPU: latency", "none (coarse)", measured, met=True, detail=detail)]


def points(truth: Path) -> list[Points]:
    """Predictions of networks that the fit did not see."""
    names, features, measured = _read(truth)
    predicted = []
    for held in range(len(names)):
        others = [i for i in range(len(names)) if i != held]
        fitted = fit_relative(features[others], measured[others])
        predicted.append(float(features[held] @ fitted))
    return [Points("jetson-nano", "latency, ms", tuple(names), tuple(map(float, measured)), tuple(predicted))]


def table(truth: Path) -> list[tuple[str, str, float]]:
    """Rows (kernel, term, nanoseconds) of the target's kernel table, fitted on all networks."""
    _, features, measured = _read(truth)
    per = dict(zip(TERMS, fit_relative(features, measured), strict=True))
    rows: list[tuple[str, str, float]] = []
    for kind in _PRODUCTS:
        rows.append((kind, "one", per["call"] * 1e6))
        rows.append((kind, "macs", per[kind if kind in KINDS else "conv"] * 1e6 if kind != "gemm" else 0.0))
        rows.append((kind, "weight_bytes", per["weights"] * 1e6 / 4))
    for kind in _OTHERS:
        rows += [(kind, "one", per["call"] * 1e6), (kind, "elements", per["elements"] * 1e6)]
    return [(kind, term, value) for kind, term, value in rows if value > 0]


def _read(truth: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Names, amounts (a row for each network, a column for each of `TERMS`) and milliseconds."""
    with (truth / "ncnn_boards.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["board"] == BOARD and r["gpu"] != "-1" and r["precision"] == "fp"]
    networks: dict[str, Any] = json.loads((truth / "ncnn_networks.json").read_text(encoding="utf-8"))
    best: dict[str, float] = {}
    for row in rows:
        name = row["network"]
        if networks.get(name, {}).get("ok"):
            best[name] = min(float(row["min_ms"]), best.get(name, float("inf")))
    names = sorted(best)
    return names, np.array([_amounts(networks[n]["layers"]) for n in names]), np.array([best[n] for n in names])


def _amounts(layers: list[dict[str, Any]]) -> list[float]:
    found = dict.fromkeys(TERMS, 0.0)
    for layer in layers:
        if layer["op"] in _FREE:
            continue
        found["call"] += 1
        if "macs" in layer:
            found["weights"] += layer["params"]
            if layer["op"] != "InnerProduct":
                found[_kind(layer)] += layer["macs"]
        else:
            found["elements"] += sum(prod(shape) for shape in layer["out"] if shape)
    return [found[term] for term in TERMS]


def _kind(layer: dict[str, Any]) -> str:
    if layer["op"] == "ConvolutionDepthWise":
        return "depthwise" if layer["g"] == layer["ci"] else "conv"
    if layer["k"] == layer["kh"] == 1:
        return "pointwise"
    return "winograd" if layer["k"] == layer["kh"] == 3 and layer["s"] == 1 and layer["ci"] >= 16 else "conv"


def main() -> None:
    """Print the kernel table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    print("# Fitted by lpcc.targets.fit.jetson_nano to ncnn's benchmark (BSD-3-Clause), NVIDIA Jetson Nano, GPU, fp16")
    print("kernel,format,quantity,term,coefficient")
    for kind, term, value in table(parser.parse_args().truth):
        print(f"{kind},float32,ns,{term},{value:.4g}")


if __name__ == "__main__":
    main()
