"""Embed lpcc in a toolchain: arrays in, a model and a report out, progress shown the toolchain's own way.

python examples/embed.py            # writes clothes.arm-cortex-a53.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lpcc

EXAMPLE = Path(__file__).parent / "fashion_mnist"


def progress(what: str, done: int, total: int) -> None:
    """Say what lpcc is at; `total` is 0 where nobody can tell."""
    print(f"  {what} {done}/{total or '?'}", file=sys.stderr)


def read(file: str) -> dict[str, np.ndarray]:
    """Arrays by input name, as the network takes them, float32 (N, 1, 28, 28) and normalised; `labels` if there are."""
    with np.load(EXAMPLE / file) as arrays:
        found = dict(arrays)
    found["image"] = (found["image"] / np.float32(255) - np.float32(0.286)) / np.float32(0.353)
    return found


def compile_for(target: str, output: Path) -> lpcc.Result:
    """Optimise the example for a target, and write the model unless it is not accurate enough."""
    result = lpcc.optimize(
        EXAMPLE / "model.onnx",
        target=target,
        calib=read("calib.npz"),
        eval=read("eval.npz"),
        max_drop=0.5,
        progress=progress,
    )
    if result.report.verdict.met_budget:
        result.save(output)
    return result


def main() -> int:
    """Compile for one board and say in the toolchain's words what came of it."""
    output = Path("clothes.arm-cortex-a53.onnx")
    try:
        report = compile_for("arm-cortex-a53", output).report
    except lpcc.LpccError as error:  # all that lpcc raises on purpose, in one line
        print(f"compiler: {error}", file=sys.stderr)
        return 1
    print(f"{output}: {report.before.file_bytes} -> {report.after.file_bytes} bytes")
    print(f"{report.quality.metric}: {report.quality.before:.1f} -> {report.quality.after:.1f} %")
    print(f"speed-up: {report.verdict.speedup:.2f} ({'measured' if report.verdict.measured else 'predicted'})")
    print(f"in int8: {sum(layer.dtype_after == 's8s8' for layer in report.layers)} of {len(report.layers)} layers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
