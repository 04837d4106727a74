"""Calibration against plain inference: time over the same images, and peak memory as their number grows.

    python benchmarks/calibration.py [--repeats 5]

Collects the statistics of all tensors that `quantize` asks for in ResNet-20 (CIFAR-10, from the zoo). Each measurement
is a process of its own; times are medians of interleaved runs with one thread. Exits with 1 if calibration takes more
than 1.5 times the plain inference, or 1,000 images take over 5 % more memory than 100.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zoo
from rich.console import Console
from rich.table import Table

_MODEL = "cifar10_resnet20_jpegft"
_COUNTS = (100, 1000)
_BATCH = 16


def work(what: str, images: str) -> None:
    """Do one measurement and print seconds and peak bytes as JSON."""
    from lpcc.calibrate import collect
    from lpcc.data import Dataset
    from lpcc.graph import load, to_proto
    from lpcc.passes.quantize.placement import Planner
    from lpcc.pipeline import Changes, Context, Pipeline
    from lpcc.pipeline.runner import run_pipeline
    from lpcc.runtime import Session

    graph = load(zoo.model(_MODEL))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    model = to_proto(graph)
    data = Dataset.open(images, Session(model).inputs)
    names = [tensor.name for tensor in Planner(graph, {}, Changes()).place().tensors()]
    start = time.perf_counter()
    if what == "calibrate":
        collect(model, names, data)
    else:
        session = Session(model)
        for batch in data.batches(_BATCH):
            session.run(batch.feeds)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    feeds, _ = zoo.load().feeds(_MODEL, "calib", max(_COUNTS))
    found: dict[tuple[str, int], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in _COUNTS:
            np.savez(Path(folder) / f"{count}.npz", **{name: array[:count] for name, array in feeds.items()})
        for _ in range(arguments.repeats):
            for count in _COUNTS:
                for what in ("infer", "calibrate"):
                    command = [sys.executable, __file__, "--work", what, str(Path(folder) / f"{count}.npz")]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    found.setdefault((what, count), []).append(json.loads(done.stdout))
    table = Table("images", "inference s", "calibration s", "ratio", "peak MB", title=f"calibration of {_MODEL}")
    ratios, peaks = [], []
    for count in _COUNTS:
        pairs = zip(found["infer", count], found["calibrate", count], strict=True)
        ratios.append(statistics.median(c[0] / i[0] for i, c in pairs))
        peaks.append(statistics.median(run[1] for run in found["calibrate", count]))
        plain = statistics.median(run[0] for run in found["infer", count])
        table.add_row(
            str(count), f"{plain:.2f}", f"{plain * ratios[-1]:.2f}", f"{ratios[-1]:.2f}", f"{peaks[-1] / 1e6:.0f}"
        )
    Console(width=120).print(table)
    raise SystemExit(1 if ratios[-1] > 1.5 or peaks[-1] > 1.05 * peaks[0] else 0)


if __name__ == "__main__":
    main()
